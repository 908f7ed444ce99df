"""What a change of the recipe or its data asks the teacher again, counted by the calls that the teacher got."""

import io
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from counting import KIND, calls

from raystill import pipeline
from raystill.stages import prepare
from raystill.view import Lines

UNIT_ROWS = 16
ROWS = {f"r{i}": f"question {i}" for i in range(200)}


@dataclass(frozen=True)
class Root:
    """A folder with one recipe, run up to generate as often as it is changed."""

    folder: Path

    def asked_again(self, rows: Mapping[str, str], change: Callable[[dict], object] = lambda recipe: None) -> set[str]:
        """The ids that the teacher is asked for these rows, once each, after a change of the recipe."""
        lines = [json.dumps({"id": i, "prompt": text, "reference": f"about {text}"}) for i, text in rows.items()]
        (self.folder / "rows.jsonl").write_text("\n".join(lines))
        recipe = {
            "name": "reuse",
            "task": "conversation",
            "root": str(self.folder / "runs"),
            "data": {
                "train": str(self.folder / "rows.jsonl"),
                "id": "id",
                "prompt": "prompt",
                "reference": "reference",
                "split": {"test": 0},
            },
            "teacher": {"kind": KIND},
            "student": {"model": str(self.folder / "model")},
        }
        change(recipe)
        (self.folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        before = calls(self.folder / "calls")
        for stage in ("prepare", "generate"):
            pipeline.run(str(self.folder / "recipe.yaml"), Lines(io.StringIO()), threading.Event(), only=stage)
        asked = calls(self.folder / "calls") - before
        assert set(asked.values()) <= {1}
        return set(asked)

    def units(self, stage: str) -> list[list[dict]]:
        """The rows of each unit of the newest prepare or generate."""
        manifest = max((self.folder / "runs" / stage).glob("*/manifest.json"), key=lambda p: p.stat().st_mtime_ns)
        files = [f["path"] for f in json.loads(manifest.read_text())["files"]]
        return [pq.read_table(manifest.parent / f).to_pylist() for f in files if f.endswith(".parquet")]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Root:
    """A root on which ROWS were asked."""
    monkeypatch.setattr(prepare, "UNIT_ROWS", UNIT_ROWS)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    for name in ("model", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    made = Root(tmp_path)
    assert made.asked_again(ROWS) == set(ROWS)
    return made


def only_the_new_units(root: Root, rows: Mapping[str, str]) -> set[str]:
    """The ids asked again for these rows: those of units that were not there before, and every answer is its row's own."""
    before = root.units("prepare")
    again = root.asked_again(rows)
    assert again == {row["id"] for unit in root.units("prepare") if unit not in before for row in unit}
    found = {row["id"]: (row["messages"][-1]["content"], row["text"]) for u in root.units("generate") for row in u}
    assert found == {i: (text, f"about {text}") for i, text in rows.items()}
    return again


def test_an_appended_row_asks_its_own_unit_again(root: Root) -> None:
    again = only_the_new_units(root, ROWS | {"new": "another question"})
    assert "new" in again
    assert len(again) <= UNIT_ROWS + 1  # the row may have cut its unit in two


def test_an_edited_row_asks_its_own_unit_again(root: Root) -> None:
    again = only_the_new_units(root, ROWS | {"r7": "question seven"})
    assert "r7" in again
    assert len(again) <= UNIT_ROWS


def test_a_deleted_row_asks_the_rest_of_its_unit_again(root: Root) -> None:
    again = only_the_new_units(root, {i: text for i, text in ROWS.items() if i != "r9"})
    assert 0 < len(again) < UNIT_ROWS


def test_rows_in_another_order_ask_nothing_again(root: Root) -> None:
    assert only_the_new_units(root, dict(reversed(ROWS.items()))) == set()


def change_student(recipe: dict) -> None:
    recipe["student"]["model"] = recipe["student"]["model"].replace("model", "other")


@pytest.mark.parametrize(
    "change",
    [
        change_student,
        lambda recipe: recipe.update(train={"learning_rate": 3e-5}),
        lambda recipe: recipe.update(name="another", compute={"generate": {"units_in_flight": 2}}),
        lambda recipe: recipe.update(evaluate={"max_tokens": 64}),
    ],
    ids=["student", "learning rate", "name and width", "evaluation"],
)
def test_what_the_teacher_does_not_see_asks_nothing_again(root: Root, change: Callable[[dict], object]) -> None:
    assert root.asked_again(ROWS, change) == set()


def test_what_the_teacher_does_see_asks_everything_again(root: Root) -> None:
    hotter = root.asked_again(ROWS, lambda recipe: recipe["teacher"].update(sampling={"temperature": 1.0}))
    assert hotter == set(ROWS)

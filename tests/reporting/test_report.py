"""The report from rows to page: plain numbers, escaped text, nothing from outside."""

import json
import re
from pathlib import Path

import pytest

from raystill import artifacts
from raystill.artifacts import Checkpoint, Manifest, Table
from raystill.pipeline import Line
from raystill.recipe import Recipe
from raystill.records import Answer, Load, Message, Prompt
from raystill.reporting.table import summary_table
from raystill.stages.report import report

HOSTILE = "<script>alert('x')</script>"


def recipe(root: Path, **more: object) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "small", "task": "conversation", "root": str(root), "data": {"train": "rows.jsonl"},
            "teacher": {"kind": "vllm", "model": "big"}, "student": {"model": "small"},
            "prices": {"machine_hour": 3.6}, **more,
        }
    )  # fmt: skip


def table(
    url: Path, kind: str, *parts: artifacts.File, counts: dict[str, object] | None = None, stage: str | None = None
) -> Table:
    manifest = Manifest(kind, 1, stage or kind, 1, "abc", {}, {}, list(parts), counts or {}, {}, {"elapsed_s": 1.5})
    return artifacts.commit(Table, str(url), manifest)


def line(root: Path, referenced: int = 20, student: int = 16, asked: int = 20) -> Line:
    """A finished line of so many test rows, the first ones with a reference: the teacher is right on 18, the student on so
    many, the baseline never."""
    prompts = [
        Prompt(
            f"r{i}", None, [Message("user", f"{HOSTILE} question {i}")], None, "conversation", "f", split,
            f"answer {i}" if i < referenced else None, "{}",
        )
        for split, some in (("train", range(asked, asked + 10)), ("test", range(asked)))
        for i in some
    ]  # fmt: skip
    url = root / "prepare"
    parts = [artifacts.write_part(str(url), s, Prompt, [p for p in prompts if p.split == s]) for s in ("train", "test")]
    counts = {"read": 31, "rows": {"train": 10, "test": asked}, "rejected": {"not JSON": 1}}
    made = Line(
        table(url, "prepare", *parts, counts=counts),
        {"teacher": table(root / "generate", "generate", counts={"rows": 10, "answers": 9, "errors": {"too long": 1}})},
        table(
            root / "curate",
            "curate",
            counts={"in": {"train": 9}, "kept": {"train": 8}, "dropped": {"train": {"empty": 1}}},
        ),
        {name: Checkpoint(f"missing/{name}", name) for name in ("teacher", "baseline", "student")},
    )
    for name, right in (("teacher", 18), ("baseline", 0), ("student", student)):
        rows = [
            Answer(f"r{i}", name, "test", f"answer {i}" if i < right else HOSTILE, "stop", 5, 3, 0.1, 0.2)
            for i in range(asked)
        ]
        speed = 1.0 if name == "teacher" else 0.25
        load = Load(name, "cpu", 1, 4, 0, 1.0, speed / 10, speed / 5, 0.01, speed, speed, 30.0, 1 / speed, 100, 1000)
        answers, loads = root / f"answer-{name}", root / f"load-{name}"
        made.answers[name] = table(answers, "answers", artifacts.write_part(str(answers), "test", Answer, rows))
        made.loads[name] = table(loads, "load", artifacts.write_part(str(loads), "load", Load, [load]))
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    return Path(report(recipe(root), line(root)))


def test_the_numbers_are_plain_and_their_intervals_beside_them(folder: Path) -> None:
    made = json.loads((folder / "report.json").read_text())
    assert made["schema"] == 1
    assert [made["models"][n]["accuracy"] for n in ("teacher", "baseline", "student")] == [0.9, 0.0, 0.8]
    assert made["retention"] == pytest.approx(0.8 / 0.9)
    low, high = made["retention_interval"]
    assert low < made["retention"] < high
    low, high = made["models"]["student"]["accuracy_interval"]
    assert low < 0.8 < high
    assert made["speedup"][0]["seconds_per_answer"] == pytest.approx(4.0)
    assert made["models"]["student"]["cost_per_1000_answers"] == pytest.approx(3.6 / 3600 / 4 * 1000)
    assert made["dropped"] == {"prepare": {"not JSON": 1}, "generate": {"too long": 1}, "curate": {"empty": 1}}
    assert made["simulated"] is False


def test_the_page_needs_nothing_from_outside_and_runs_nothing(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:|//)", page)
    assert "<script" not in page
    assert not re.search(r"\son[a-z]+=", page)
    assert "&lt;script&gt;" in page
    assert "prefers-color-scheme" in page
    assert page.count("<h1") == 1 and '<html lang="en"' in page


def test_the_card_says_what_was_measured_and_what_is_not_known(folder: Path) -> None:
    card = (folder / "MODEL_CARD.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers")
    assert "| accuracy | 90.0" in card
    assert "terms of the teacher" in card


def test_the_terminal_shows_the_same(folder: Path) -> None:
    shown = summary_table(json.loads((folder / "report.json").read_text()))
    assert "teacher" in shown and "90.0 %" in shown and "student keeps 88.9 %" in shown


def test_without_references_there_is_agreement_and_a_reason(tmp_path: Path) -> None:
    made = json.loads((Path(report(recipe(tmp_path), line(tmp_path, referenced=0))) / "report.json").read_text())
    assert made["models"]["student"]["accuracy"] is None
    assert made["retention"] is None
    assert made["models"]["student"]["agreement"] == 0.9
    assert any("reference" in note for note in made["notes"])


def test_a_scripted_teacher_is_marked(tmp_path: Path) -> None:
    scripted = recipe(tmp_path, teacher={"kind": "scripted"})
    made = Path(report(scripted, line(tmp_path)))
    assert json.loads((made / "report.json").read_text())["simulated"] is True
    assert "Simulated" in (made / "report.html").read_text()


def test_a_task_without_accuracy_is_told_by_its_own_metric(tmp_path: Path) -> None:
    made = Path(report(recipe(tmp_path, task="translation"), line(tmp_path)))
    written = json.loads((made / "report.json").read_text())
    assert written["decided_by"] == "chrf" and written["models"]["teacher"]["accuracy"] is None
    assert 0 < written["retention"] < 1
    page = (made / "report.html").read_text()
    assert "of the teacher’s chrF" in page and "points of chrF beside its baseline" in page and "BLEU" in page
    assert "of the teacher's chrF, over 20 rows" in summary_table(written)
    assert "| chrF | " in (made / "MODEL_CARD.md").read_text()


def test_each_label_is_a_line(tmp_path: Path) -> None:
    page = (Path(report(recipe(tmp_path, task="classification"), line(tmp_path))) / "report.html").read_text()
    assert "Macro F1" in page and "F1 of answer 7" in page

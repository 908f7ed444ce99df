"""A few rows through every stage: what is written for them, and what their artifacts say of the whole run."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from raystill import artifacts, recipe_file, sample
from raystill.artifacts import File, Manifest, Table
from raystill.errors import RecipeError
from raystill.recipe_file import Located
from raystill.sample import Took


def located(folder: Path, **changes: Any) -> Located:
    rows = [{"id": i, "prompt": f"question {i}", "reference": f"answer {i}"} for i in range(100)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    values = {
        "name": "small",
        "task": "conversation",
        "root": str(folder / "runs"),
        "data": {"train": str(folder / "rows.jsonl"), "prompt": "prompt", "reference": "reference", "limit": 50},
        "teacher": {"model": "a/teacher"},
        "student": {"model": "a/student"},
        "tune": {"learning_rate": [1e-5]},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values | changes))
    return recipe_file.load(str(folder / "recipe.yaml"))


def rows_of(values: dict[str, Any], split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(values["data"][split]).read_text().splitlines()]


def test_the_first_rows_go_through_an_ordinary_recipe(tmp_path: Path) -> None:
    values = sample.shrunk(located(tmp_path))
    made = recipe_file.of(values)
    assert made.root == str(tmp_path / "runs" / "sample") and made.tune is None and made.data.limit is None
    assert "duplicate" not in made.curate.filters
    test, validation, train = (rows_of(values, split) for split in ("test", "validation", "train"))
    assert (len(test), len(validation), len(train)) == (16, 4 * 16, 16 * 16)
    prompts = [{row["prompt"] for row in rows} for rows in (test, validation, train)]
    assert [len(p) for p in prompts] == [16, 4, 16] and not prompts[0] & prompts[2] and not prompts[1] & prompts[2]
    assert len({json.dumps(row) for row in train}) == len(train)


def test_copies_have_ids_of_their_own(tmp_path: Path) -> None:
    data = {"train": str(tmp_path / "rows.jsonl"), "prompt": "prompt", "id": "id"}
    ids = [row["id"] for row in rows_of(sample.shrunk(located(tmp_path, data=data)), "train")]
    assert len(set(ids)) == 16 * 16


def test_an_endpoint_is_asked_no_copies(tmp_path: Path) -> None:
    teacher = {"kind": "endpoint", "endpoint": {"url": "http://localhost:1", "model": "x"}}
    assert len(rows_of(sample.shrunk(located(tmp_path, teacher=teacher)), "train")) == 16


def test_a_teacher_that_is_still_to_be_made_is_said(tmp_path: Path) -> None:
    located(tmp_path, name="first", teacher={"kind": "reference"}, student={"model": str(tmp_path)}, tune=None)
    (tmp_path / "config.json").write_text("{}")
    first = (tmp_path / "recipe.yaml").rename(tmp_path / "first.yaml")
    second = located(tmp_path, teacher={"recipe": str(first)})
    with pytest.raises(RecipeError, match=f"not made yet, .* raystill run {first}"):
        sample.shrunk(second)


def table(folder: Path, stage: str, took: float, counts: dict[str, Any], started: int = 0, **more: Any) -> Table:
    made = {"started_at": f"2026-01-01T00:{started // 60:02}:{started % 60:02}+00:00", "elapsed_s": took}
    config = more.pop("config", {})
    files = more.pop("files", [])
    manifest = Manifest(stage, 1, stage, 1, stage, config, {}, files, counts, more, made)
    return Table(str(folder / stage), stage, manifest)


def answers(folder: Path, stage: str, seconds: list[float]) -> list[File]:
    """A part with nothing but times."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.table({"elapsed_s": seconds}), sink)
    (folder / stage).mkdir()
    (folder / stage / "train-0.parquet").write_bytes(sink.getvalue())
    return [artifacts.describe("train-0.parquet", sink.getvalue(), len(seconds))]


def test_what_comes_once_is_told_from_what_comes_with_each_row(tmp_path: Path) -> None:
    recipe = located(tmp_path).recipe
    steps = [(1, 100, 9.0), (2, 200, 10.0), (3, 300, 11.0), (4, 400, 12.2)]
    curve = "".join(json.dumps({"step": n, "tokens": t, "elapsed_s": s}) + "\n" for n, t, s in steps).encode()
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "curve.jsonl").write_bytes(curve)
    generated = {"rows": 8, "answers": 8, "prompt_tokens": 80, "output_tokens": 160}
    found = {
        "generate": table(
            tmp_path, "generate", 50, generated, 0, kind="vllm", files=answers(tmp_path, "generate", [2.0, 4.0])
        ),
        "curate": table(tmp_path, "curate", 1, {"in": {"train": 8}, "kept": {"train": 6}}, 55),
        "train student": table(
            tmp_path, "train", 40, {"train": 4, "tokens": 400, "rows": 0}, 56,
            config={"train": {"epochs": 2}}, files=[artifacts.describe("curve.jsonl", curve)],
        ),
        "answer student": table(tmp_path, "answer", 20, {"rows": 2}, 300, files=answers(tmp_path, "answer", [1.0, 3.0])),
        "measure student": table(tmp_path, "load", 7, {"loads": 2}, 321),
    }  # fmt: skip
    made = sample.measured(found, recipe)
    assert made.steps["generate"] == Took(46, 0.5)
    assert made.steps["train student"] == Took(pytest.approx(36), pytest.approx(0.01))
    assert made.steps["answer student"] == Took(pytest.approx(19.5), 2.0 / recipe.evaluate.concurrency)
    assert made.steps["measure student"] == Took(7)
    assert (made.prompt_tokens, made.answer_tokens, made.kept) == (10, 20, 0.75)
    assert made.learnt_tokens == {"train student": 50}
    assert made.between_s == (55 - 50) + (321 - 320)  # the pause before 300 is somebody who came back later


def test_a_sample_is_found_again_until_the_recipe_changes(tmp_path: Path) -> None:
    recipe = located(tmp_path).recipe
    assert sample.of(recipe) is None
    made = sample.Sample({"generate": Took(1, 2)}, 0, 1, 2, 1, {"train student": 3})
    sample.storage.write(sample._url(recipe), json.dumps(sample.dataclasses.asdict(made)).encode())
    assert sample.of(recipe) == made
    assert sample.of(located(tmp_path, data=recipe.data.model_dump(mode="json") | {"limit": 9}).recipe) == made
    assert sample.of(located(tmp_path, train={"epochs": 1}).recipe) is None
    assert sample.of(located(tmp_path, teacher={"model": "a/other"}).recipe) is None

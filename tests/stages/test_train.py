import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raystill import artifacts, recipe
from raystill.artifacts import Checkpoint, Manifest, Outcome, Table
from raystill.context import Context
from raystill.errors import DataError, Interrupted, RecipeError, ResourceError, StageError
from raystill.records import Example, Ids, Message
from raystill.stages import train


class Told:
    """A Progress that keeps what it is told, and may press Ctrl-C after a step."""

    def __init__(self) -> None:
        self.done, self.total, self.lines = 0, None, []
        self.after: dict[int, Any] = {}

    def start(self, stage: str, total: int | None, unit: str) -> None:
        self.total = total

    def advance(self, done: int = 1, **scalars: float) -> None:
        self.done += done
        for step in [s for s in self.after if s <= self.done]:
            self.after.pop(step)()

    def say(self, text: str) -> None:
        self.lines.append(text)


class Log:
    """A tracker that keeps what it is told."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, float]] = {}

    def log(self, step: int, scalars: dict[str, float]) -> None:
        self.rows[step] = scalars


def examples(folder: Path, n: int = 48, validation: int = 6) -> Table:
    words = "red green blue kettle lamp chair order late broken lost".split()

    def example(i: int, split: str) -> Example:
        said = " ".join(words[(i * k + k) % len(words)] for k in range(1, 3 + i % 7))
        messages = [Message("user", f"Where is {said}?"), Message("assistant", f"The {said} is here.")]
        return Example(f"{split}{i}", "reference", 0, split, messages, None, [1], Ids([]))

    made = {s: [example(i, s) for i in range(k)] for s, k in (("train", n), ("validation", validation))}
    files = [artifacts.write_part(str(folder), s, Example, rows) for s, rows in made.items() if rows]
    return Table(str(folder), "0" * 12, Manifest("examples", 1, "curate", 1, "0" * 12, {}, {}, files))


def context(folder: Path, progress: Told | None = None, **compute: Any) -> Context:
    scratch = folder / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    workers = recipe.Workers(**{"workers": 1, "cpus": 1, **compute})
    return Context(
        url=str(folder / "artifact"),
        compute=recipe.Compute(train=workers),
        progress=progress or Told(),
        max_error_rate=0.05,
        scratch=scratch,
    )


def curve(outcome: Outcome, where: Context) -> list[dict[str, Any]]:
    (path,) = (f.path for f in outcome.files if f.path.endswith(train.CURVE))
    return [json.loads(line) for line in (Path(where.url) / path).read_text().splitlines()]


def losses(outcome: Outcome, where: Context) -> list[float]:
    return [row["loss"] for row in curve(outcome, where)]


CONFIG = recipe.Train(epochs=2, batch_size=8, learning_rate=3e-3, validations=2, max_length=128)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=True)
    yield
    ray.shutdown()


@pytest.mark.slow
def test_two_workers_train_and_export(cluster: None, tiny_model: Path, tmp_path: Path) -> None:
    told, log = Told(), Log()
    where = context(tmp_path, told, workers=2, zero=1, micro_tokens=64)
    outcome = train.train(CONFIG, None, examples(tmp_path / "examples"), Checkpoint(str(tiny_model), "m"), [log], where)
    rows = curve(outcome, where)
    assert told.total == told.done == len(rows) == len(log.rows) == 12
    assert rows[-1]["loss"] < rows[0]["loss"] - 1
    assert [r["step"] for r in rows if r["validation_loss"] is not None] == [6, 12]
    assert outcome.facts["logits_difference"] < 1e-4
    assert outcome.counts["train"] == 48 and outcome.counts["validation"] == 6
    listed = {f.path for f in outcome.files}
    there = {p.relative_to(where.url).as_posix() for p in Path(where.url).rglob("*") if p.is_file()}
    assert listed == there

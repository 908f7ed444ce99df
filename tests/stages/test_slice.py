"""slice: the first rows of each split, whole parts untouched."""

import io
from pathlib import Path

import pytest

from raystill import artifacts, recipe
from raystill.artifacts import Manifest, Table
from raystill.context import Context
from raystill.errors import DataError
from raystill.records import Example, Ids, Message
from raystill.stages.slice import slice_
from raystill.view import Lines


def examples(folder: Path, sizes: dict[str, list[int]]) -> Table:
    files, number = [], 0
    for split, parts in sizes.items():
        for size in parts:
            rows = [
                Example(f"r{number + i}", "t", 0, split, [Message("assistant", "a")], None, [0], Ids([]))
                for i in range(size)
            ]
            number += size
            files.append(artifacts.write_part(str(folder), split, Example, rows))
    made = Manifest("examples", 1, "curate", 1, "e", {}, {}, files, {}, {"tokenizers": {"t": "x"}})
    return artifacts.commit(Table, str(folder), made)


def context(folder: Path) -> Context:
    return Context(str(folder / "slice"), recipe.Compute(), Lines(io.StringIO()), 0.05, folder)


def test_the_first_rows_of_each_split(tmp_path: Path) -> None:
    table = examples(tmp_path / "e", {"train": [4, 4, 4], "validation": [3]})
    outcome = slice_(6, table, context(tmp_path))
    assert outcome.counts == {"train": 6, "validation": 3}
    kept = Table(f"{tmp_path}/slice", "s", Manifest("examples", 1, "slice", 1, "s", {}, {}, list(outcome.files)))
    assert [row.id for row in kept.rows(Example, "train")] == [f"r{i}" for i in range(6)]
    assert outcome.files[0] == table.parts("train")[0] and outcome.files[-1] == table.parts("validation")[0]
    assert outcome.facts == {"tokenizers": {"t": "x"}}


def test_a_slice_without_validation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"raise data\.split\.validation"):
        slice_(6, examples(tmp_path / "e", {"train": [4]}), context(tmp_path))

"""mix: the student's own text where it was asked, the teacher's everywhere else."""

import io
from pathlib import Path

from raystill import artifacts, recipe
from raystill.artifacts import Manifest, Table
from raystill.context import Context
from raystill.records import Example, Ids, Message
from raystill.stages.mix import mix
from raystill.view import Lines


def examples(folder: Path, who: str, ids: range) -> Table:
    def example(i: int) -> Example:
        said = [Message("user", f"{i}"), Message("assistant", f"{who} says {i}")]
        return Example(f"r{i}", who, 0, "train" if i % 2 else "validation", said, None, [1], Ids([i]))

    rows = [example(i) for i in ids]
    files = [
        artifacts.write_part(str(folder), split, Example, [row for row in rows if row.split == split])
        for split in ("train", "validation")
    ]
    made = Manifest("examples", 1, "curate", 1, who, {}, {}, files, {}, {"tokenizers": {who: f"{who}'s"}})
    return artifacts.commit(Table, str(folder), made)


def test_each_prompt_has_one_writer(tmp_path: Path) -> None:
    own, taught = examples(tmp_path / "own", "student", range(4, 8)), examples(tmp_path / "t", "teacher", range(10))
    url = str(tmp_path / "mixed")
    outcome = mix(own, taught, Context(url, recipe.Compute(), Lines(io.StringIO()), 0.05, tmp_path))
    made = artifacts.commit(Table, url, Manifest("examples", 1, "mix", 1, "m", {}, {}, list(outcome.files)))
    wrote = {row.id: row.messages[-1].content for row in made.rows(Example)}
    assert wrote == {f"r{i}": f"{'student' if 4 <= i < 8 else 'teacher'} says {i}" for i in range(10)}
    assert {row.split for row in made.rows(Example, "validation")} == {"validation"}
    assert outcome.counts == {"own": 4, "teacher": 6}
    assert outcome.facts["tokenizers"] == {"student": "student's", "teacher": "teacher's"}

"""On-policy rounds with real parts: a student writes, its teacher scores that, it learns, and nothing is made twice."""

import json
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import build_tiny_model

from raystill import pipeline, planning, recipe_file
from raystill.pipeline import Line
from raystill.records import Example, Generation, Prompt
from raystill.session import ray_session
from raystill.stages import report
from raystill.steps import Runner
from raystill.view import Lines

pytestmark = pytest.mark.slow


def learn(path: Path) -> Line:
    loaded = recipe_file.load(str(path)).recipe
    with (
        ray_session(loaded.compute) as ensure,
        tempfile.TemporaryDirectory() as scratch,
        Path("/dev/null").open("w") as f,
    ):
        made = pipeline.learn(loaded, Runner(loaded, Lines(f), threading.Event(), ensure, Path(scratch)))
    pipeline.point(loaded, made)
    return made


def test_a_student_learns_from_what_its_teacher_thinks_of_its_own_text(tiny_model: Path, tmp_path: Path) -> None:
    teacher = build_tiny_model(tmp_path / "teacher", hidden=128)
    rows = [{"id": f"r{i}", "prompt": f"Where is order {i}?"} for i in range(64)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe: dict[str, Any] = {
        "name": "on-policy",
        "task": "conversation",
        "root": str(tmp_path / "runs"),
        "data": {"train": str(tmp_path / "rows.jsonl"), "id": "id", "split": {"validation": 0.2}},
        "teacher": {"kind": "transformers", "model": str(teacher), "sampling": {"max_tokens": 6}},
        "curate": {"filters": ["empty"]},
        "score": {"k": 20},
        "student": {"model": str(tiny_model)},
        "rounds": 1,
        "on_policy": {
            "kind": "transformers",
            "sampling": {"max_tokens": 6},
            "train": {"learning_rate": 3e-3, "loss": {"kind": "reverse_kl"}},
        },
        "train": {"epochs": 1, "max_length": 128, "validations": 1, "batch_size": 8, "learning_rate": 1e-3},
        "compute": {"train": {"workers": 1}},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    made = learn(path)
    (first,) = made.rounds["student"]
    assert made.models["student"] == first.learner != first.writer

    wrote = list(first.rollouts.rows(Generation))
    assert {g.id for g in wrote} == {p.id for p in made.prompts.rows(Prompt, "train", "validation")}
    own = list(first.examples.rows(Example))
    assert {row.teacher for row in own} == {"student"}
    assert first.rollouts.counts["truncated"] > 0
    # The stop token that encoding adds to a cut answer is not learnt, and all that is learnt was scored.
    written = sum(len(row.completion_ids) for row in own)
    assert first.learner.counts["supervised"] == first.learner.counts["with_targets"] == written
    assert first.learner.facts["drift"] > 0
    assert first.targets.facts["consistent"] == 1
    curve = first.learner.read(next(f.path for f in first.learner.manifest.files if f.path.endswith("curve.jsonl")))  # type: ignore[union-attr]
    losses = [json.loads(line)["loss"] for line in curve.decode().splitlines()]
    assert losses[-1] < losses[0]

    recipe["rounds"], recipe["on_policy"]["lambda"] = 2, 0.5
    path.write_text(yaml.safe_dump(recipe))
    again = learn(path)
    assert again.rounds["student"][0].writer.fingerprint == first.writer.fingerprint
    for of in again.rounds["student"]:
        wrote_by = {row.id: row.teacher for row in of.examples.rows(Example)}
        assert wrote_by.keys() == {row.id for row in made.examples.rows(Example)} | {row.id for row in wrote}
        assert set(wrote_by.values()) == {"student", "teacher"}
        assert {i for i, who in wrote_by.items() if who == "student"} == {g.id for g in of.rollouts.rows(Generation)}
    before, after = again.rounds["student"]
    assert after.writer == before.learner

    found = report.gather(recipe_file.load(str(path)).recipe, again)
    shown = [(r.answers, r.truncated, r.steps, r.consistent) for r in found.rounds["student"]]
    assert [answers for answers, *_ in shown] == [of.rollouts.counts["answers"] for of in (before, after)]
    steps = {
        s.label: s.state for s in planning.plan(str(path)).steps if s.label.split()[0] not in ("answer", "measure")
    }
    assert set(steps.values()) == {"done"}

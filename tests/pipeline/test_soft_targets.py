"""From prompts to a student that learns from soft targets, beside one that learns from text: one teacher run, one score."""

import json
import tempfile
import threading
from pathlib import Path

import pytest
import yaml
from conftest import build_tiny_model

from raystill import chat, pipeline, recipe_file
from raystill.records import Example
from raystill.session import ray_session
from raystill.steps import Runner
from raystill.view import Lines

pytestmark = pytest.mark.slow


def test_two_students_share_a_teacher_and_one_learns_from_its_thoughts(tiny_model: Path, tmp_path: Path) -> None:
    teacher = build_tiny_model(tmp_path / "teacher", hidden=128)
    rows = [{"id": f"r{i}", "prompt": f"Where is order {i}?"} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = {
        "name": "soft",
        "task": "conversation",
        "root": str(tmp_path / "runs"),
        "data": {"train": str(tmp_path / "rows.jsonl"), "id": "id"},
        "teacher": {"kind": "transformers", "model": str(teacher), "sampling": {"max_tokens": 6}},
        "score": {"support": "sampled", "temperature": 2},
        "curate": {"filters": []},
        "students": {
            "text": {"model": str(tiny_model)},
            "soft": {"model": str(tiny_model), "train": {"loss": {"kind": "forward_kl", "alpha": 0.5}}},
        },
        "train": {"epochs": 1, "max_length": 128, "validations": 1, "batch_size": 8},
        "compute": {"train": {"workers": 1}},
    }
    path = tmp_path / "soft.yaml"
    path.write_text(yaml.safe_dump(recipe))
    loaded = recipe_file.load(str(path)).recipe
    with (
        ray_session(loaded.compute) as ensure,
        tempfile.TemporaryDirectory() as scratch,
        Path("/dev/null").open("w") as f,
    ):
        do = Runner(loaded, Lines(f), threading.Event(), ensure, Path(scratch))
        made = pipeline.learn(loaded, do)
    assert made.targets is not None
    text, soft = (made.models[name].manifest for name in ("text", "soft"))
    assert text is not None and soft is not None
    assert soft.inputs["targets"] == made.targets.fingerprint
    assert "targets" not in text.inputs
    assert soft.counts["supervised"] == text.counts["supervised"]
    # Of the stop token that the student adds to a cut answer the teacher has said nothing.
    stop = chat.stop_id(chat.load_tokenizer(str(tiny_model)))
    cut = sum(row.completion_ids[-1] != stop for row in made.examples.rows(Example, "train", "validation"))
    assert soft.counts["with_targets"] == soft.counts["supervised"] - cut > cut > 0
    assert text.counts["with_targets"] == 0
    assert soft.inputs["examples"] == text.inputs["examples"]

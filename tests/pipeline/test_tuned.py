"""A search with real parts: Ray Tune's trials around Ray Train's workers, one score for each temperature."""

import io
import json
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import build_tiny_model

from raystill import planning, recipe_file, tuning
from raystill.view import Lines

pytestmark = pytest.mark.slow


def test_the_best_of_some_trials_becomes_a_recipe(tiny_model: Path, tmp_path: Path) -> None:
    teacher = build_tiny_model(tmp_path / "teacher", hidden=128)
    rows = [{"id": f"r{i}", "prompt": f"Where is order {i}?"} for i in range(60)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe: dict[str, Any] = {
        "name": "small",
        "task": "conversation",
        "root": str(tmp_path / "runs"),
        "data": {"train": str(tmp_path / "rows.jsonl"), "id": "id", "split": {"validation": 0.2}},
        "teacher": {"kind": "transformers", "model": str(teacher), "sampling": {"max_tokens": 6}},
        "curate": {"filters": ["empty"]},
        "score": {"k": 5},
        "student": {"model": str(tiny_model)},
        "train": {"loss": {"kind": "forward_kl"}, "epochs": 1, "max_length": 128, "validations": 2, "batch_size": 8},
        "tune": {
            "learning_rate": {"min": 1e-9, "max": 3e-3},
            "alpha": {"min": 0.2, "max": 1.0},
            "k": [4, 16],
            "trials": 3,
            "rows": 24,
            "seed": 1,
        },
        "evaluate": {"max_tokens": 64},
        "compute": {"train": {"workers": 1}},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    made = tuning.tune(str(path), None, Lines(io.StringIO()), threading.Event())

    root = tmp_path / "runs"
    (kept,) = (root / "tune").glob("*/trials.jsonl")
    trials = [json.loads(line) for line in kept.read_text().splitlines()]
    assert len(trials) == 3 and trials[0]["state"] == "whole"
    assert {trial["state"] for trial in trials} <= {"whole", "stopped"}
    assert made.best.values["learning_rate"] == max(t["values"]["learning_rate"] for t in trials)
    assert made.best.text_loss[-1] == min(t["text_loss"][-1] for t in trials)
    assert len(list((root / "generate").glob("*/manifest.json"))) == 1
    assert len(list((root / "score").glob("*/manifest.json"))) == 1
    assert not list(kept.parent.glob("trials/*/work")) and not list((root / "train").glob("*"))
    assert "small-tuned.yaml" in made.recipe and not planning.plan(made.recipe).problems
    loss = recipe_file.load(made.recipe).recipe.train.loss
    assert loss.alpha == made.best.values["alpha"]
    assert "Best of 3 trials" in Path(made.page).read_text()

    # Stopped before its end, a search trains nothing anew for what its trials told.
    (kept.parent / "manifest.json").unlink()
    before = {p: p.stat().st_mtime_ns for p in kept.parent.glob("trials/*.json")}
    again = tuning.tune(str(path), str(tmp_path / "again.yaml"), Lines(io.StringIO()), threading.Event())
    assert again.best == made.best
    assert {p: p.stat().st_mtime_ns for p in before} == before

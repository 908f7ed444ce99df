"""Two real steps in processes of their own, held against the arithmetic."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import build_tiny_model

from raystill import recipe, shapes
from raystill.errors import StageError
from raystill.training import footprint, preflight


def test_the_longest_batch_is_full() -> None:
    train = recipe.Train(max_length=100)
    assert preflight.longest(train, recipe.Workers(micro_tokens=350)) == [100, 100, 100]
    assert preflight.longest(train, recipe.Workers(micro_tokens=50)) == [100]


def test_a_trial_comes_back_from_its_file(tmp_path: Path) -> None:
    trial = preflight.Trial(recipe.Train(seed=7), recipe.Workers(zero=2), "folder", 2, 1, False)
    preflight.store(trial, str(tmp_path))
    assert preflight.load(str(tmp_path)) == trial


@pytest.mark.parametrize("killed", [True, False], ids=["killed by the kernel", "refused by the device"])
def test_what_ends_for_lack_of_memory_is_told_from_other_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    def ended(command: list[str], stdout: Any, **_: Any) -> subprocess.CompletedProcess[str]:
        if killed:
            stdout.write(
                "torch.multiprocessing.spawn.ProcessExitedException: process 0 terminated with signal SIGKILL\n"
            )
            return subprocess.CompletedProcess(command, 1)
        Path(command[-1], "peak-0.json").write_text(json.dumps({"peak": 7, "fits": False}))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", ended)
    seen = preflight.run(preflight.Trial(recipe.Train(), recipe.Workers(), str(tmp_path), 1, 1, False))
    assert seen == preflight.Seen([] if killed else [7], fits=False)


@pytest.mark.slow
@pytest.mark.parametrize(("zero", "workers"), [(0, 1), (1, 1), (3, 2)])
def test_what_a_training_holds_is_worked_out_within_a_quarter(tmp_path: Path, zero: int, workers: int) -> None:
    model = build_tiny_model(tmp_path / "model", hidden=1024, layers=8)
    shape = shapes.of(str(model))
    assert shape is not None and shape.parameters is not None and shape.parameters > 60e6
    train, compute = recipe.Train(max_length=256), recipe.Workers(micro_tokens=512, zero=zero)
    seen = preflight.run(preflight.Trial(train, compute, str(model), workers, 1, False))
    worked_out = footprint.footprint(shape, train, compute, workers, gpu=False)
    assert worked_out is not None and seen.fits and len(seen.peaks) == workers
    assert max(seen.peaks) == pytest.approx(worked_out.total, rel=0.25)


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_is_no_lack_of_memory(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="two trial steps failed"):
        preflight.run(preflight.Trial(recipe.Train(), recipe.Workers(), str(tmp_path), 1, 1, False))


@pytest.mark.slow
def test_a_live_teacher_is_held_too(tmp_path: Path) -> None:
    model = build_tiny_model(tmp_path / "model")
    teacher = build_tiny_model(tmp_path / "teacher", hidden=1024, layers=8)
    train = recipe.Train(teacher="live", max_length=64, loss=recipe.Loss(kind="forward_kl", layers=recipe.Layers()))
    alone, beside = (
        preflight.run(preflight.Trial(t, recipe.Workers(micro_tokens=64), str(model), 1, 1, False, folder))
        for t, folder in ((recipe.Train(max_length=64), None), (train, str(teacher)))
    )
    weights = sum(f.stat().st_size for f in teacher.glob("*.safetensors"))
    assert beside.fits and max(beside.peaks) - max(alone.peaks) > 0.9 * weights

"""tune's trials: what was reported is kept, told again, and trained for only once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raystill.errors import StageError
from raystill.stages import tune

VALUES = {"learning_rate": 0.1}


class Stopped(BaseException):
    """What Ray Tune does to a trial that fell behind."""


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    from ray import tune as ray_tune

    seen: list[float] = []
    monkeypatch.setattr(ray_tune, "report", lambda metrics: seen.append(metrics[tune.METRIC]))
    return seen


def training(losses: list[float], calls: list[str], fails: str | None = None) -> tune.Train:
    def train(values: dict[str, Any], folder: str, report: Callable[[float], None]) -> None:
        calls.append(folder)
        for loss in losses:
            report(loss)
        if fails:
            raise StageError(fails)

    return train


def test_a_whole_trial_is_told_again_without_training(told: list[float], tmp_path: Path) -> None:
    calls: list[str] = []
    for _ in range(2):
        tune.run_trial(VALUES, str(tmp_path), 3, training([3.0, 2.0, 1.0], calls))
    assert told == [3.0, 2.0, 1.0] * 2
    assert len(calls) == 1


def test_a_trial_that_was_stopped_goes_beyond_what_it_told(
    told: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray import tune as ray_tune

    calls: list[str] = []

    def stop(metrics: dict[str, float]) -> None:
        raise Stopped

    monkeypatch.setattr(ray_tune, "report", stop)
    with pytest.raises(Stopped):
        tune.run_trial(VALUES, str(tmp_path), 3, training([3.0, 2.0, 1.0], calls))
    monkeypatch.setattr(ray_tune, "report", lambda metrics: told.append(metrics[tune.METRIC]))
    tune.run_trial(VALUES, str(tmp_path), 3, training([3.0, 2.0, 1.0], calls))
    assert told == [3.0, 2.0, 1.0]
    assert len(calls) == 2


def test_a_trial_that_failed_says_why_and_is_tried_again(told: list[float], tmp_path: Path) -> None:
    calls: list[str] = []
    for _ in range(2):
        with pytest.raises(StageError):
            tune.run_trial(VALUES, str(tmp_path), 3, training([3.0], calls, "training diverged"))
    assert len(calls) == 2 and told == [3.0, 3.0]
    (kept,) = tmp_path.glob("*.json")
    assert json.loads(kept.read_text()) == {
        "values": VALUES, "text_loss": [3.0], "state": "failed", "error": "training diverged"
    }  # fmt: skip


def test_a_short_trial_with_fewer_validations_is_whole_when_it_ends(told: list[float], tmp_path: Path) -> None:
    calls: list[str] = []
    for _ in range(2):
        tune.run_trial(VALUES, str(tmp_path), 4, training([2.0, 1.0], calls))
    assert told == [2.0, 1.0] * 2
    assert len(calls) == 1


@pytest.mark.parametrize(("optuna", "kind"), [(True, "ConcurrencyLimiter"), (False, "BasicVariantGenerator")])
def test_no_more_trials_run_at_once_than_fit_with_either_search(
    monkeypatch: pytest.MonkeyPatch, optuna: bool, kind: str
) -> None:
    if optuna:
        pytest.importorskip("optuna")
    monkeypatch.setattr(tune, "_optuna", lambda: optuna)
    found = tune.sampler(0, 3)
    assert (type(found).__name__, found.max_concurrent) == (kind, 3)

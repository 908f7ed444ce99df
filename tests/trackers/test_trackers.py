"""trackers: what was logged is read back with the real libraries."""

import json
from pathlib import Path

import pytest

from raystill.errors import RecipeError
from raystill.trackers import open_trackers


def logged(kind: str, folder: Path) -> None:
    (tracker,) = open_trackers([kind], str(folder), "demo")
    tracker.log(1, {"loss": 2.0})
    tracker.log(2, {"loss": 1.5, "learning_rate": 0.1})
    tracker.close()


def test_jsonl_has_a_line_per_step(tmp_path: Path) -> None:
    logged("jsonl", tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "demo.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 2.0), (2, 1.5)]


def test_tensorboard_reads_its_events(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logged("tensorboard", tmp_path)
    events = EventAccumulator(str(tmp_path / "demo"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 2.0), (2, 1.5)]


def test_mlflow_reads_its_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    logged("mlflow", tmp_path)
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("raystill").experiment_id])
    assert run.info.status == "FINISHED"
    assert [m.value for m in client.get_metric_history(run.info.run_id, "loss")] == [2.0, 1.5]


def test_an_unknown_tracker_is_named() -> None:
    with pytest.raises(RecipeError, match="tensorboard"):
        open_trackers(["tensorbord"], "x", "y")

"""Scalars in MLflow: where MLFLOW_TRACKING_URI says, else in a database beside the run."""

import os
from pathlib import Path

from raystill.errors import RecipeError


class Mlflow:
    """One MLflow run per start, in the experiment 'raystill'."""

    def __init__(self, folder: str, run: str) -> None:
        try:
            from mlflow import MlflowClient
        except ImportError:
            raise RecipeError("trackers: mlflow needs a package; pip install 'raystill[mlflow]'") from None
        Path(folder).mkdir(parents=True, exist_ok=True)
        uri = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{Path(folder, 'mlflow.db').absolute()}")
        self._client = MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name("raystill")
        experiment = found.experiment_id if found else self._client.create_experiment("raystill")
        self._run = self._client.create_run(experiment, run_name=run).info.run_id

    def log(self, step: int, scalars: dict[str, float]) -> None:
        """One metric per scalar."""
        for name, value in scalars.items():
            self._client.log_metric(self._run, name, value, step=step)

    def close(self) -> None:
        """Mark the run as finished."""
        self._client.set_terminated(self._run)

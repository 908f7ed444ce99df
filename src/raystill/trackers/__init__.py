"""Where a run's scalars go besides the report. A kind is a class of one file here, or the user's own as `module:attr`."""

from collections.abc import Sequence
from typing import Protocol

from raystill import plugins

KINDS = {
    "jsonl": "raystill.trackers.jsonl:Jsonl",
    "tensorboard": "raystill.trackers.tensorboard:Tensorboard",
    "mlflow": "raystill.trackers.mlflow:Mlflow",
}


class Tracker(Protocol):
    """One place for scalars. It is made with a local folder and the run's name."""

    def __init__(self, folder: str, run: str) -> None: ...

    def log(self, step: int, scalars: dict[str, float]) -> None:
        """Note scalars of a step."""

    def close(self) -> None:
        """Write what is still held back."""


def open_trackers(kinds: Sequence[str], folder: str, run: str) -> list[Tracker]:
    """Trackers of a run, writing below a local folder. Raises RecipeError for an unknown kind or a missing package."""
    return [plugins.load(kind, KINDS, "tracker")(folder, run) for kind in kinds]

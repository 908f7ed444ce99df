"""Scalars as TensorBoard event files: `tensorboard --logdir <folder>`. Needs the tensorboard package, not torch."""

import time
from pathlib import Path

from raystill.errors import RecipeError


class Tensorboard:
    """One event file per run and start."""

    def __init__(self, folder: str, run: str) -> None:
        try:
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError:
            raise RecipeError("trackers: tensorboard needs a package; pip install 'raystill[tensorboard]'") from None
        self._writer = EventFileWriter(str(Path(folder, run)))

    def log(self, step: int, scalars: dict[str, float]) -> None:
        """One event with all scalars."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()

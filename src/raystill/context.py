"""What a stage function is given besides its configuration and inputs: where it writes and whom it tells."""

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from raystill.recipe import Compute


class Progress(Protocol):
    """The live view, as stages see it."""

    def start(self, stage: str, total: int | None, unit: str) -> None:
        """A stage begins; `unit` names what is counted: rows, units, steps, answers."""

    def advance(self, done: int = 1, **scalars: float) -> None:
        """So many more are done; scalars (rows, tokens, rejects, reused, loss, learning_rate) add up or are shown."""

    def say(self, text: str) -> None:
        """A line for the user. Never a prompt or an answer."""


@dataclass(frozen=True)
class Context:
    """One stage's surroundings. None of it is identity."""

    url: str
    """The artifact's folder; the stage writes below it, `pipeline` writes the manifest."""
    compute: Compute
    progress: Progress
    max_error_rate: float
    scratch: Path
    """A local folder for temporary files."""
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set by the first Ctrl-C: finish or drop the current unit, then raise Interrupted."""
    label: str = ""
    """The step's name, as plan and the live view show it."""

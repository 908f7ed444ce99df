"""Where train workers and the driver meet: a tiny actor that holds the newest rows, the outcome, and Ctrl-C.

Workers post and never wait; the driver drains. It outlives worker groups, so it also knows, after a group was restarted,
that the run had already failed for a reason that a restart does not mend.
"""

from dataclasses import dataclass, field
from typing import Any

from raystill.errors import RaystillError
from raystill.training.export import Exported


@dataclass
class Update:
    """What is new since the driver last asked: rows of the curve, and lines for the user."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)


@dataclass
class Outcome:
    """How the run ended; all empty while it runs or when its workers were lost."""

    exported: Exported | None = None
    curve: list[dict[str, Any]] = field(default_factory=list)
    attempts: list[str] = field(default_factory=list)
    """Drivers that had a part in the run: their checkpoints are needed no more."""
    error: RaystillError | None = None
    stopped_at: int | None = None


class Board:
    """The actor's state."""

    def __init__(self) -> None:
        self._update = Update()
        self._outcome = Outcome()
        self._stopping = False

    def post(self, row: dict[str, Any]) -> bool:
        """A step is done. Returns whether the run should stop."""
        self._update.rows.append(row)
        return self._stopping

    def say(self, line: str) -> None:
        """A line for the user."""
        self._update.lines.append(line)

    def drain(self) -> Update:
        """Everything since the last call."""
        update, self._update = self._update, Update()
        return update

    def stopping(self) -> bool:
        """Whether the run should stop."""
        return self._stopping

    def ask_stop(self) -> None:
        """Let the workers stop after their step."""
        self._stopping = True

    def stop(self, step: int) -> None:
        """The workers stopped after so many steps."""
        self._outcome.stopped_at = step

    def finish(self, exported: Exported, curve: list[dict[str, Any]], attempts: list[str]) -> None:
        """The student is exported."""
        self._outcome = Outcome(exported, curve, attempts)

    def fail(self, error: RaystillError) -> None:
        """The run failed for a reason that a restart does not mend."""
        self._outcome.error = self._outcome.error or error

    def settled(self) -> bool:
        """Whether there is an outcome."""
        return self._outcome != Outcome()

    def outcome(self) -> Outcome:
        """How the run ended."""
        return self._outcome

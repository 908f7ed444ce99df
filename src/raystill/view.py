"""What the user sees while a run goes on: one live view of the line, or plain lines where there is no terminal.

Nothing of Ray's, vLLM's or DeepSpeed's own output is here: `noise.engine_log` keeps it in a file.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO

from rich.console import Console
from rich.live import Live
from rich.text import Text

PLAIN_EVERY_S = 10.0
"""Time between two plain lines of one stage: a log should stay readable."""
RATE_AFTER_S = 1.0
"""A stage's age before its rates mean anything."""
SHOWN = ("loss", "validation_loss", "learning_rate")
"""Scalars whose newest value is shown; all others add up."""


@dataclass
class Stage:
    """One stage's progress so far."""

    name: str
    total: int | None
    unit: str
    started: float = field(default_factory=time.monotonic)
    ended: float | None = None
    done: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    newest: dict[str, float] = field(default_factory=dict)

    def add(self, done: int, scalars: dict[str, float]) -> None:
        """Count progress."""
        self.done += done
        for name, value in scalars.items():
            if name in SHOWN:
                self.newest[name] = value
            else:
                self.sums[name] = self.sums.get(name, 0.0) + value

    def line(self) -> str:
        """One line: done of total, rates, time left, rejects, loss."""
        elapsed_s = max(1e-6, (self.ended or time.monotonic()) - self.started)
        parts = [
            f"{self.done}/{self.total} {self.unit}" if self.total else (f"{self.done} {self.unit}" if self.done else "")
        ]
        for name in ("rows", "tokens"):
            if self.sums.get(name) and elapsed_s >= RATE_AFTER_S:
                parts.append(f"{self.sums[name] / elapsed_s:,.0f} {name}/s")
        for name in ("rejects", "reused"):
            if self.sums.get(name):
                parts.append(f"{self.sums[name]:.0f} {name}")
        parts += [f"{name.replace('_', ' ')} {value:.4g}" for name, value in self.newest.items()]
        if self.ended is None and self.total and 0 < self.done < self.total:
            parts.append(f"{_clock(elapsed_s * (self.total - self.done) / self.done)} left")
        return f"{self.name:<20} {_clock(elapsed_s):>6}  {'  '.join(p for p in parts if p)}".rstrip()


class Lines:
    """Progress as plain lines, for logs and pipes."""

    def __init__(self, out: IO[str]) -> None:
        self.out = out
        self.stage: Stage | None = None
        self._printed = 0.0

    def start(self, stage: str, total: int | None, unit: str) -> None:
        """A stage begins; the one before has ended."""
        self.close()
        self.stage = Stage(stage, total, unit)
        self._printed = time.monotonic()
        self._print(f"{stage} ...")

    def advance(self, done: int = 1, **scalars: float) -> None:
        """Count, and print now and then."""
        if self.stage is None:
            return
        self.stage.add(done, scalars)
        if self.stage.done != self.stage.total and time.monotonic() - self._printed > PLAIN_EVERY_S:
            self._printed = time.monotonic()
            self._print(self.stage.line())

    def current(self) -> str:
        """The stage that runs now."""
        return self.stage.name if self.stage else "start"

    def say(self, text: str) -> None:
        """A line for the user."""
        self._print(text)

    def close(self) -> None:
        """The last stage has ended."""
        if self.stage and self.stage.ended is None:
            self.stage.ended = time.monotonic()
            self._print(self.stage.line())

    def _print(self, text: str) -> None:
        self.out.write(text + "\n")
        self.out.flush()


class Screen:
    """Progress as a live view of the whole line: stages that ended, the one that runs, those that wait."""

    def __init__(self, live: Live, waiting: Sequence[str] = ()) -> None:
        self.live = live
        self.stages: list[Stage] = []
        self.waiting = list(waiting)

    def start(self, stage: str, total: int | None, unit: str) -> None:
        """A stage begins; the one before has ended, and those that were to come earlier were not needed."""
        self.close()
        if stage in self.waiting:
            del self.waiting[: self.waiting.index(stage) + 1]
        self.stages.append(Stage(stage, total, unit))
        self.live.update(self.render())

    def advance(self, done: int = 1, **scalars: float) -> None:
        """Count; the live view repaints by itself."""
        if self.stages:
            self.stages[-1].add(done, scalars)

    def current(self) -> str:
        """The stage that runs now."""
        return self.stages[-1].name if self.stages else "start"

    def say(self, text: str) -> None:
        """A line above the view."""
        self.live.console.print(text, highlight=False, markup=False)

    def close(self) -> None:
        """The last stage has ended."""
        if self.stages and self.stages[-1].ended is None:
            self.stages[-1].ended = time.monotonic()

    def render(self) -> Text:
        """The view as text."""
        marked = [f"{'·' if s.ended is None else '✓'} {s.line()}" for s in self.stages]
        return Text("\n".join([*marked, *(f"○ {name}" for name in self.waiting)]))


@contextlib.contextmanager
def view(out: IO[str], waiting: Sequence[str] = ()) -> Iterator[Lines | Screen]:
    """The live view on a terminal, plain lines elsewhere; `waiting` names the stages that are to come, in order."""
    if not out.isatty():
        lines = Lines(out)
        try:
            yield lines
        finally:
            lines.close()
        return
    with Live(
        console=Console(file=out), refresh_per_second=4, transient=False, redirect_stdout=False, redirect_stderr=False
    ) as live:
        screen = Screen(live, waiting)
        live.get_renderable = screen.render  # type: ignore[method-assign]
        try:
            yield screen
            screen.waiting.clear()
        finally:
            screen.close()


def _clock(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f}s"
    if seconds < 3600:
        return f"{seconds // 60:.0f}m{seconds % 60:02.0f}s"
    return f"{seconds // 3600:.0f}h{seconds % 3600 // 60:02.0f}m"

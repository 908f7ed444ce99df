"""What has come of requests under the public name, for Prometheus and for people."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from ray.util import metrics

ANSWERED, FAILED, LEFT = "answered", "failed", "left"
SECONDS = [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]


@dataclass
class Arm:
    """One model's requests by outcome, and the time of those that it answered."""

    name: str
    outcomes: Counter[str] = field(default_factory=Counter)
    answered_s: float = 0.0

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        """One request, noted when it ends; a caller who leaves is neither answered nor failed."""
        began, outcome = time.perf_counter(), FAILED
        try:
            yield
            outcome = ANSWERED
            elapsed_s = time.perf_counter() - began
            self.answered_s += elapsed_s
            _seconds().observe(elapsed_s, {"model_name": self.name})
        except (GeneratorExit, asyncio.CancelledError):
            outcome = LEFT
            raise
        finally:
            self.outcomes[outcome] += 1
            _requests().inc(1, {"model_name": self.name, "outcome": outcome})

    def stats(self) -> dict[str, Any]:
        """As shown."""
        answered = self.outcomes[ANSWERED]
        return {**self.outcomes, "seconds_per_answer": self.answered_s / answered if answered else None}


def judged(outcome: str, saved: float | None) -> None:
    """Tell Prometheus of one more answer of a student that has the teacher behind it, and of what that saves so far."""
    _judged().inc(1, {"outcome": outcome})
    if saved is not None:
        _saved().set(saved)


@cache
def _requests() -> metrics.Counter:
    said = "Requests under the public name by the model that was chosen, and how they ended."
    return metrics.Counter("raystill_arm_requests", said, ("model_name", "outcome"))


@cache
def _seconds() -> metrics.Histogram:
    said = "Time of whole answers under the public name by the model that was chosen."
    return metrics.Histogram("raystill_arm_seconds", said, SECONDS, ("model_name",))


@cache
def _judged() -> metrics.Counter:
    said = "The student's answers that were kept, and why the teacher was asked for others: check or probability."
    return metrics.Counter("raystill_fallback_answers", said, ("outcome",))


@cache
def _saved() -> metrics.Gauge:
    said = "Share of machine time that the student saves against the teacher alone."
    return metrics.Gauge("raystill_fallback_saved", said)

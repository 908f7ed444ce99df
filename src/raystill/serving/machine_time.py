"""How much machine time each answer takes where several share an engine."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass
class Spent:
    """What one request took of its model's machine, in seconds; known when it has ended."""

    machine_s: float = 0.0


class Meter:
    """One model's machine time: while k requests are in flight, each takes 1/k of it, so all together take what passes.

    `_each_s` is what a request that was there from the beginning would have taken, processor sharing's virtual time
    (Kleinrock, "Time-shared systems: a theoretical treatment", J. ACM 1967); a request takes the difference of two of its
    readings.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.in_flight = 0
        self._each_s = 0.0
        self._at = clock()

    @contextlib.contextmanager
    def request(self, spent: Spent) -> Iterator[None]:
        """One request, from when it is asked until its answer is whole or given up."""
        began = self._tick(+1)
        try:
            yield
        finally:
            spent.machine_s = self._tick(-1) - began

    def _tick(self, more: int) -> float:
        now = self.clock()
        if self.in_flight:
            self._each_s += (now - self._at) / self.in_flight
        self._at = now
        self.in_flight += more
        return self._each_s

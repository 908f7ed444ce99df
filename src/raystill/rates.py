"""How fast an endpoint may be asked: a rate per minute, a number in flight, and a breaker for when it is down.

Each learns from how requests end. Pure asyncio on the running loop's own monotonic clock, so that tests turn the clock.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

START = 8
"""Requests in flight before anything is known: enough to see latency under some load, few enough for any server."""
SLOWER = 0.5
FASTER = 0.02
"""A refusal halves the pace, and 25 answers win that back: the shape that lets many clients share one limit fairly."""
SLOWEST = 1 / 16
LATE = 2.0
"""Answers held so many times longer than at best are queueing, and more requests in flight would only queue too."""
ROUND = 32
"""Least answers by which latency is judged: fewer say more of their own lengths than of the endpoint."""


def _now() -> float:
    return asyncio.get_running_loop().time()


class Bucket:
    """Units per minute, those of burst_s at once. It may go into debt, so a unit that is larger than it passes too."""

    def __init__(self, per_minute: float, burst_s: float = 1.0) -> None:
        self.per_s = per_minute / 60
        self.most = max(1.0, self.per_s * burst_s)
        self.level = self.most
        self.at: float | None = None

    def refill(self, pace: float) -> None:
        """Let in what has come since the last time."""
        now = _now()
        self.level = min(self.most, self.level + (now - (now if self.at is None else self.at)) * self.per_s * pace)
        self.at = now

    def wait_s(self, units: float, pace: float) -> float:
        """How long until so many may be taken."""
        return max(0.0, (min(units, self.most) - self.level) / (self.per_s * pace))


class Rate:
    """Requests and tokens per minute, in order of asking; either may be None. A refusal slows it, answers win it back."""

    def __init__(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        self.requests = Bucket(requests_per_minute) if requests_per_minute else None
        self.tokens = Bucket(tokens_per_minute) if tokens_per_minute else None
        self.pace = 1.0
        self.not_before = self.slowed_at = float("-inf")
        self._line = asyncio.Lock()

    async def take(self, tokens: float) -> float:
        """Wait for one request of about so many tokens; the time at which it may be sent."""
        wanted = [(b, n) for b, n in ((self.requests, 1.0), (self.tokens, tokens)) if b]
        async with self._line:
            while True:
                for bucket, _ in wanted:
                    bucket.refill(self.pace)
                wait_s = max([self.not_before - _now(), *(b.wait_s(n, self.pace) for b, n in wanted)])
                if wait_s <= 0:
                    break
                # A little more than asked, or the last fraction of a unit would be waited for in ever smaller steps.
                await asyncio.sleep(wait_s + 0.001)
            for bucket, n in wanted:
                bucket.level -= n
            return _now()

    def settle(self, estimated: float, used: float) -> None:
        """An answer came, and used so many tokens."""
        if self.tokens:
            self.tokens.level = min(self.tokens.most, self.tokens.level + estimated - used)
        self.pace = min(1.0, self.pace + FASTER)

    def refused(self, sent_at: float, wait_s: float) -> None:
        """A 429: nobody asks for wait_s. Requests sent before the last slow-down say nothing about the pace since."""
        self.not_before = max(self.not_before, _now() + wait_s)
        if sent_at > self.slowed_at:
            self.pace = max(SLOWEST, self.pace * SLOWER)
            self.slowed_at = _now()


class Concurrency:
    """Requests in flight: twice as many after each round of answers while latency holds, fewer when it does not.

    After the first time that it did not, a twentieth more a round (slow start and congestion avoidance, as TCP has them
    in RFC 5681, but in proportion: thousands in flight would else be hours away).
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = float(min(START, most))
        self.in_flight = 0
        self.best_s = float("inf")
        self._growth = 2.0
        self._round: list[float] = []
        self._busiest = 0
        self._deaf = 0
        self._turn = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """One request's place in flight."""
        async with self._turn:
            await self._turn.wait_for(lambda: self.in_flight < int(self.limit))
            self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1
            async with self._turn:
                self._turn.notify(max(0, int(self.limit) - self.in_flight))

    def answered(self, latency_s: float) -> None:
        """An answer came, its first token after so many seconds."""
        self._deaf = max(0, self._deaf - 1)
        if self.limit < START and not self._deaf:  # so few are no queue whatever they wait, and a round of them is long
            self.limit = min(float(self.most), START, self.limit + 1 / self.limit)
        self._round.append(latency_s)
        self._busiest = max(self._busiest, self.in_flight)
        if len(self._round) < max(ROUND, self.limit):
            return
        mean_s, busiest = sum(self._round) / len(self._round), self._busiest
        self._begin_round()
        # START in flight are no queue: what they wait is the endpoint's best, and measured anew should it have changed.
        self.best_s = mean_s if self.limit <= START else min(self.best_s, mean_s)
        if mean_s > LATE * self.best_s:
            self._shrink(0.9)
        elif busiest >= self.limit / 2:  # else the limit is not what holds it back, and nothing is learnt
            self.limit = min(float(self.most), max(self.limit + 1, self.limit * self._growth))

    def overloaded(self) -> None:
        """A 429, a 5xx or no answer in time."""
        self._deaf = max(0, self._deaf - 1)
        self._shrink(0.5)

    def _shrink(self, to: float) -> None:
        """Once per round: what was in flight at the last time was sent under the old limit."""
        if not self._deaf:
            self._deaf = self.in_flight
            self._growth = 1.05
            self._begin_round()
            self.limit = max(1.0, self.limit * to)

    def _begin_round(self) -> None:
        self._round.clear()
        self._busiest = 0


class Breaker:
    """After `failures` in a row nobody asks for a while; then one request tries, and its end decides for all."""

    def __init__(self, failures: int = 10, pause_s: float = 5.0, longest_s: float = 60.0) -> None:
        self.failures, self.pause_s, self.longest_s = failures, pause_s, longest_s
        self.in_a_row = self.failed_probes = 0
        self._open_until: float | None = None
        self._changed = asyncio.Event()

    async def passage(self) -> bool:
        """Wait while the endpoint is taken for down; whether this request is the one that tries."""
        while self._open_until is not None:
            left_s = self._open_until - _now()
            if left_s <= 0:
                self._open_until = _now() + self.longest_s  # should this one never end, another tries then
                return True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s + 0.001):
                    await self._changed.wait()
        return False

    def passed(self) -> None:
        """The endpoint answered."""
        self.in_a_row = self.failed_probes = 0
        self._change(None)

    def failed(self, probe: bool) -> None:
        """A failure that may pass."""
        self.in_a_row += 1
        self.failed_probes += probe
        if probe or (self._open_until is None and self.in_a_row >= self.failures):
            self._change(_now() + min(self.longest_s, self.pause_s * 2**self.failed_probes))

    def _change(self, open_until: float | None) -> None:
        if open_until != self._open_until:
            self._open_until = open_until
            self._changed.set()
            self._changed = asyncio.Event()

"""rates on a loop whose clock jumps to the next timer: minutes pass in no time, and exactly."""

import asyncio
import random
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raystill.rates import Breaker, Concurrency, Rate

T = TypeVar("T")


class Jumping(asyncio.SelectorEventLoop):
    """Nothing to do until a timer: then it is that time."""

    now = 1000.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self.now = max(self.now, self._scheduled[0]._when)  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


def run(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=Jumping) as runner:
        return runner.run(work)


def now() -> float:
    return asyncio.get_running_loop().time()


@settings(max_examples=50, deadline=None)
@given(
    requests=st.integers(1, 6000) | st.none(),
    tokens=st.integers(10, 100_000) | st.none(),
    asked=st.lists(st.integers(1, 3000), min_size=1, max_size=60),
)
def test_no_minute_holds_more_than_it_may(requests: int | None, tokens: int | None, asked: list[int]) -> None:
    async def all_of_them() -> list[tuple[float, int]]:
        rate = Rate(requests, tokens)

        async def one(n: int) -> tuple[float, int]:
            return await rate.take(n), n

        return await asyncio.gather(*map(one, asked))

    sent = run(all_of_them())
    assert sent == sorted(sent, key=lambda s: s[0]), "first come, first served"
    for start, _ in sent:
        minute = [n for at, n in sent if start <= at < start + 60]
        if requests:
            assert len(minute) <= requests + max(1, requests / 60) + 1e-3
        if tokens:
            assert sum(minute[:-1]) <= tokens + max(1, tokens / 60) + max(asked)


def test_the_rate_is_reached() -> None:
    async def go() -> float:
        rate, started = Rate(600, None), now()
        for _ in range(610):
            await rate.take(0)
        return now() - started

    assert 59 < run(go()) < 62


def test_unused_tokens_are_given_back() -> None:
    async def go() -> float:
        rate, started = Rate(None, 6000), now()
        for _ in range(60):
            await rate.take(1000)
            rate.settle(1000, 100)
        return now() - started

    assert run(go()) == pytest.approx(60, abs=3)  # 60 answers of 100 tokens, not of 1000


def test_a_refusal_stops_everybody_halves_the_pace_once_and_answers_win_it_back() -> None:
    async def go() -> None:
        rate = Rate(60_000, None)
        sent = [await rate.take(0) for _ in range(5)]
        await asyncio.sleep(1)
        for at in sent:
            rate.refused(at, 7.0)
        assert rate.pace == 0.5, "five requests of one moment are one sign"
        before = now()
        assert await rate.take(0) - before == pytest.approx(7.0, abs=0.01)
        rate.refused(now(), 0.0)
        assert rate.pace == 0.25
        for _ in range(38):
            rate.settle(0, 0)
        assert rate.pace == 1.0

    run(go())


def test_in_flight_grows_while_latency_holds_and_never_passes_the_most() -> None:
    async def go() -> None:
        places, most = Concurrency(24), 0

        async def one() -> None:
            nonlocal most
            async with places.slot():
                most = max(most, places.in_flight)
                await asyncio.sleep(1.0)
                places.answered(1.0)

        await asyncio.gather(*(one() for _ in range(600)))
        assert most == 24
        assert places.in_flight == 0

    run(go())


def test_in_flight_settles_where_the_server_starts_to_queue() -> None:
    """A server that answers 20 at a time in a second each, and queues the rest."""

    async def go() -> None:
        places, server, seen = Concurrency(400), asyncio.Semaphore(20), []

        async def one() -> None:
            async with places.slot():
                asked = now()
                async with server:
                    await asyncio.sleep(1.0)
                places.answered(now() - asked)
                seen.append(places.limit)

        started = now()
        await asyncio.gather(*(one() for _ in range(4000)))
        assert 20 <= sum(seen[2000:]) / len(seen[2000:]) <= 60
        assert 4000 / (now() - started) > 16, "and keeps it busy"

    run(go())


def test_thousands_in_flight_are_a_few_rounds_away() -> None:
    async def go() -> None:
        places, started = Concurrency(2000), now()

        async def one() -> None:
            async with places.slot():
                await asyncio.sleep(8.0)
                places.answered(8.0)

        waiting = [asyncio.ensure_future(one()) for _ in range(6000)]
        while places.in_flight < 2000:
            await asyncio.sleep(1.0)
            assert now() - started < 120
        await asyncio.gather(*waiting)

    run(go())


@pytest.mark.parametrize("seed", range(5))
def test_answers_of_every_length_are_no_queue(seed: int) -> None:
    """Time to the first token over a factor of ten, by chance alone: nothing to shrink for."""
    rng = random.Random(seed)

    async def go() -> None:
        places, seen = Concurrency(500), []

        async def one() -> None:
            async with places.slot():
                latency_s = rng.lognormvariate(0.0, 0.6)
                await asyncio.sleep(latency_s)
                places.answered(latency_s)
                seen.append(places.limit)

        await asyncio.gather(*(one() for _ in range(20_000)))
        assert sum(seen[10_000:]) / 10_000 > 400

    run(go())


def test_an_endpoint_that_slows_for_good_is_measured_anew() -> None:
    async def go() -> None:
        places, latency_s = Concurrency(32), 1.0

        async def one() -> None:
            async with places.slot():
                await asyncio.sleep(latency_s)
                places.answered(latency_s)

        await asyncio.gather(*(one() for _ in range(1000)))
        assert places.limit == 32
        latency_s = 5.0
        await asyncio.gather(*(one() for _ in range(3000)))
        assert places.limit == 32

    run(go())


def test_a_burst_of_failures_shrinks_it_once() -> None:
    async def go() -> None:
        places = Concurrency(8)

        async def one() -> None:
            async with places.slot():
                await asyncio.sleep(1.0)
                places.overloaded()

        await asyncio.gather(*(one() for _ in range(8)))
        assert places.limit == 4
        for _ in range(40):
            await one()
        assert places.limit == 1

    run(go())


def test_after_a_burst_forty_answers_bring_it_back() -> None:
    async def go() -> None:
        places = Concurrency(32)
        for _ in range(5):
            async with places.slot():
                places.overloaded()
        assert places.limit == 1
        for _ in range(40):
            async with places.slot():
                places.answered(30.0)
        assert places.limit == 8

    run(go())


def test_a_cancelled_wait_holds_no_place() -> None:
    async def go() -> None:
        places = Concurrency(1)

        async def one(s: float) -> None:
            async with places.slot():
                await asyncio.sleep(s)

        first, second, third = (asyncio.create_task(one(1.0)) for _ in range(3))
        await asyncio.sleep(0.5)
        first.cancel()
        second.cancel()
        await asyncio.wait_for(third, 5)
        assert places.in_flight == 0

    run(go())


def test_the_breaker_opens_sends_one_and_closes() -> None:
    async def go() -> None:
        breaker = Breaker(failures=3, pause_s=5, longest_s=60)
        for _ in range(2):
            breaker.failed(await breaker.passage())
        breaker.passed()
        for _ in range(3):
            assert not await breaker.passage()
            breaker.failed(False)
        opened = now()
        waiting = [asyncio.create_task(breaker.passage()) for _ in range(4)]
        breaker.failed(False)  # one that was in flight: it says nothing new
        await asyncio.sleep(6)
        assert [t.result() for t in waiting if t.done()] == [True], "one request tries"
        breaker.failed(True)
        await asyncio.sleep(9)
        assert sum(t.done() for t in waiting) == 1, "the pause doubles"
        await asyncio.sleep(2)
        assert sum(t.done() for t in waiting) == 2
        breaker.passed()
        assert sorted(await asyncio.gather(*waiting)) == [False, False, True, True]
        assert now() - opened < 18
        assert not await breaker.passage()

    run(go())


def test_a_try_that_never_ends_is_followed_by_another() -> None:
    async def go() -> float:
        breaker, started = Breaker(failures=1, pause_s=5, longest_s=60), now()
        breaker.failed(False)
        assert await breaker.passage()
        assert await breaker.passage()
        return now() - started

    assert run(go()) == pytest.approx(65, abs=0.1)

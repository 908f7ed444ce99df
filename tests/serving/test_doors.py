"""Models that sleep: the answer at once, one call that wakes, and no question to a model that is in use."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from fastapi import HTTPException

from raystill.serving import doors
from raystill.serving.doors import Doors


class Sleeper:
    """A model whose health check waits until it is up."""

    def __init__(self) -> None:
        self.up = asyncio.Event()
        self.checks = 0

    async def check(self, _model: str) -> None:
        self.checks += 1
        await self.up.wait()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doors, "KNOCK_S", 0.02)


def run(story: Callable[[Sleeper, Doors], Coroutine[Any, Any, None]], idle_s: float = 60) -> None:
    async def told() -> None:
        sleeper = Sleeper()
        await story(sleeper, Doors(sleeper.check, {"teacher": idle_s}))

    asyncio.run(told())


def test_a_sleeping_model_is_woken_once_and_says_so_until_it_is_up() -> None:
    async def story(sleeper: Sleeper, front: Doors) -> None:
        assert front.state("teacher") == "asleep"
        for _ in range(3):
            with pytest.raises(HTTPException, match="warming up: teacher") as refused:
                await front.knock("teacher")
            assert refused.value.status_code == 503
            assert refused.value.headers == {"Retry-After": "20"}
        assert sleeper.checks == 1
        assert front.state("teacher") == "warming up"
        sleeper.up.set()
        await front.knock("teacher")
        assert front.state("teacher") == "ready"

    run(story)


def test_a_model_in_use_is_not_asked_whether_it_is_awake() -> None:
    async def story(sleeper: Sleeper, front: Doors) -> None:
        sleeper.up.set()
        await front.knock("teacher")
        for _ in range(3):
            await front.knock("teacher")
            front.used("teacher")
        assert sleeper.checks == 1

    run(story)


def test_after_its_idle_time_it_is_asked_again() -> None:
    async def story(sleeper: Sleeper, front: Doors) -> None:
        sleeper.up.set()
        await front.knock("teacher")
        sleeper.up.clear()
        await asyncio.sleep(0.05)
        assert front.state("teacher") == "asleep"
        with pytest.raises(HTTPException, match="warming up"):
            await front.knock("teacher")

    run(story, idle_s=0.01)


def test_a_model_that_never_sleeps_is_never_asked() -> None:
    async def story(sleeper: Sleeper, front: Doors) -> None:
        await front.knock("student")
        front.used("student")
        assert front.state("student") == "ready"
        assert sleeper.checks == 0

    run(story)


def test_what_keeps_a_model_from_waking_is_told_and_tried_again() -> None:
    async def story(_sleeper: Sleeper, _front: Doors) -> None:
        async def broken(_model: str) -> None:
            raise RuntimeError("no such deployment")

        front = Doors(broken, {"teacher": 60})
        for _ in range(2):
            with pytest.raises(RuntimeError, match="no such deployment"):
                await front.knock("teacher")

    run(story)

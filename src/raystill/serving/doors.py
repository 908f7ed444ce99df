"""Models that sleep: who asks for one is told at once that it is warming up, which wakes it.

Ray Serve starts an engine for a model that has none as soon as a call waits for it, and left to itself it keeps the caller
waiting for the minutes that weights take. Here the call that waits is one of our own. No Ray here.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

from fastapi import HTTPException

KNOCK_S = 0.5
"""A model that answers a health check in this time is awake."""
RETRY_AFTER_S = 20
"""When to ask again: a small engine starts in 15-40 s."""


class Doors:
    """Which models are awake. `check` asks one for its health, and waits for as long as it sleeps; `idle_s` says after how many
    idle seconds which of them sleep. One that was used in that time is not asked."""

    def __init__(self, check: Callable[[str], Awaitable[object]], idle_s: Mapping[str, float]) -> None:
        self.check, self.idle_s = check, idle_s
        self.awake_until: dict[str, float] = {}
        self.knocks: dict[str, asyncio.Task[None]] = {}

    def state(self, model: str) -> str:
        """ready, asleep or warming up."""
        if model in self.knocks:
            return "warming up"
        return "ready" if self._awake(model) else "asleep"

    async def knock(self, model: str) -> None:
        """Raise HTTPException 503 for a model that sleeps, and wake it."""
        if self._awake(model):
            return
        if model not in self.knocks:
            self.knocks[model] = asyncio.ensure_future(self._wake(model))
        waking = self.knocks[model]
        done, _ = await asyncio.wait([waking], timeout=KNOCK_S)
        if not done:
            told = f"warming up: {model} sleeps while nobody asks for it and is being started; ask again in {RETRY_AFTER_S} s"
            raise HTTPException(503, told, {"Retry-After": str(RETRY_AFTER_S)})
        waking.result()

    def used(self, model: str) -> None:
        """Note that it answers now."""
        if model in self.idle_s:
            self.awake_until[model] = time.monotonic() + self.idle_s[model]

    def _awake(self, model: str) -> bool:
        return model not in self.idle_s or time.monotonic() < self.awake_until.get(model, 0.0)

    async def _wake(self, model: str) -> None:
        try:
            await self.check(model)
            self.used(model)
        finally:
            del self.knocks[model]

"""Ray Serve LLM's ingress, which stops an engine's work on an answer that nobody waits for any more.

Ray Serve does so by itself only where the caller hangs up, not where the ingress gives an answer up, as for its time limit.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

from ray.serve.handle import DeploymentHandle
from ray.serve.llm.ingress import OpenAiIngress


class StoppingIngress(OpenAiIngress):  # type: ignore[misc]
    """To be the base of every ingress of ours."""

    def _get_configured_serve_handle(self, model_id: str) -> Any:
        return _Stopping(super()._get_configured_serve_handle(model_id))


@dataclass(frozen=True)
class _Stopping:
    """A handle whose answers are stopped with their reader."""

    handle: DeploymentHandle

    def options(self, **options: Any) -> "_Stopping":
        return _Stopping(self.handle.options(**options))

    def __getattr__(self, method: str) -> Any:
        return SimpleNamespace(remote=partial(_answer, getattr(self.handle, method).remote))


async def _answer(ask: Callable[..., Any], *arguments: Any) -> AsyncIterator[Any]:
    answer = ask(*arguments)
    try:
        async for piece in answer:
            yield piece
    except (asyncio.CancelledError, GeneratorExit):
        answer.cancel()
        raise

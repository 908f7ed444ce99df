"""Asking a served model held-out prompts over HTTP: so many in flight, each with its reply or why there is none."""

import asyncio
import collections
import hashlib
import itertools
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from raystill import chat, recipe
from raystill.artifacts import Table
from raystill.client import Client, Passing, Reply, RequestFailed, request
from raystill.context import Context
from raystill.errors import DataError, Interrupted, StageError
from raystill.records import Message, Prompt


class Endpoint(Protocol):
    """Where models are served: an OpenAI-compatible URL that lists each model under its name in the report."""

    @property
    def base_url(self) -> str:
        """Its address."""

    @property
    def key(self) -> str | None:
        """The bearer token, if it wants one."""

    def stats(self) -> Mapping[str, Mapping[str, int]]:
        """Per model `weights_bytes` and `peak_memory_bytes`, as of now."""

    def meters(self, model: str) -> Mapping[str, Any]:
        """`energy_j`, the joules that the counters of a model's machine show now, by their names; and `kv_bytes_per_token`,
        None where that is unknown."""


@dataclass(frozen=True)
class View:
    """How one model is asked: its name, its view of a prompt, and the bounds of its answer."""

    model: str
    system: str | None
    examples: Sequence[recipe.Turn]
    max_tokens: int
    temperature: float
    logprobs: bool = False
    """Whether it tells the probabilities of its tokens."""
    stream: bool = True
    """Whether the time to its first token is wanted."""

    def messages(self, prompt: Prompt) -> list[Message]:
        """The prompt as this model sees it."""
        return chat.view(prompt.messages, self.system, self.examples)


@dataclass(frozen=True)
class Asked:
    """One request: its prompt, and the reply or why there is none."""

    prompt: Prompt
    reply: Reply | None
    error: str | None = None


def choose(prompts: Table, config: recipe.Evaluate) -> list[Prompt]:
    """The held-out prompts, ordered by id; with a limit those whose id's hash is smallest.

    Raises DataError when the split is empty.
    """
    rows = list(prompts.rows(Prompt, config.split))
    if not rows:
        raise DataError(
            f"there is no {config.split} row, so nothing can be compared; give data.{config.split} a file, or set "
            f"data.split.{config.split} to a share such as 0.1"
        )
    rows.sort(key=lambda p: hashlib.sha256(p.id.encode()).digest())
    return sorted(rows[: config.limit], key=lambda p: p.id)


async def ask(
    client: Client, view: View, prompts: Sequence[Prompt], at_once: int, context: Context, *, retry: bool = True
) -> AsyncGenerator[Asked, None]:
    """Replies as they come, `at_once` requests in flight. Without `retry` a request that fails once has failed: a second
    attempt's time would hide the first one's. Raises Interrupted after Ctrl-C."""
    waiting = iter(prompts)

    def some(n: int) -> set[asyncio.Future[Asked]]:
        return {asyncio.ensure_future(_ask_one(client, view, p, retry)) for p in itertools.islice(waiting, n)}

    running = some(at_once)
    try:
        while running:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            if context.stopping.is_set():
                raise Interrupted("stopped while asking; run the same command to ask again")
            running |= some(len(done))
            for task in done:
                yield task.result()
    finally:
        for task in running:
            task.cancel()


async def _ask_one(client: Client, view: View, prompt: Prompt, retry: bool) -> Asked:
    asked = (view.model, view.messages(prompt), view.max_tokens, view.temperature)
    more: dict[str, Any] = {"stream": view.stream} | ({"logprobs": True} if view.logprobs else {})
    try:
        return Asked(prompt, await (client.chat(*asked, **more) if retry else client.attempt(request(*asked, **more))))
    except (RequestFailed, Passing) as e:
        return Asked(prompt, None, str(e))


def check(
    errors: Sequence[str | None],
    total: int,
    model: str,
    max_error_rate: float,
    more: str = "The server's log says more",
) -> None:
    """Raise StageError when more requests have failed (their errors are not None) than `total` may."""
    failed = collections.Counter(error for error in errors if error is not None)
    if failed.total() > max_error_rate * total:
        reasons = "; ".join(f"{reason} ({n})" for reason, n in failed.most_common(3))
        raise StageError(
            f"{model} failed on {failed.total()} of {len(errors)} requests, more than max_error_rate {max_error_rate} "
            f"of {total} allows: {reasons}. {more}; raise max_error_rate to go on regardless"
        )

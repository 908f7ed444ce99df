"""evaluate: what served models answer to held-out prompts, and how fast they are under a stated load, all over HTTP.

It knows endpoints only, never an engine: those that a run serves, and the URL of a paid teacher. `metrics.compare` makes
numbers of the stored answers, without inference.
"""

import asyncio
import collections
import contextlib
import hashlib
import itertools
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from raystill import chat, recipe, storage
from raystill.artifacts import Outcome, Table, decode, write_part
from raystill.client import Client, Reply, RequestFailed
from raystill.context import Context
from raystill.errors import DataError, Interrupted, StageError
from raystill.records import Answer, Generation, Load, Message, Prompt
from raystill.teachers import driver, units
from raystill.teachers.replica import Replica, published
from raystill.teachers.units import Unit

VERSION = 1
PAID_ROWS = 64
"""Rows that are asked of a paid teacher together and published together."""
ASKED = "asked"
"""The folder, in its step's, of what a paid teacher was asked and said."""


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


@dataclass(frozen=True)
class View:
    """How one model is asked: its name, its view of a prompt, and the bounds of its answer."""

    model: str
    system: str | None
    examples: Sequence[recipe.Turn]
    max_tokens: int
    temperature: float

    def messages(self, prompt: Prompt) -> list[Message]:
        """The prompt as this model sees it."""
        return chat.view(prompt.messages, self.system, self.examples)


@dataclass(frozen=True)
class Asked:
    """One request: its prompt, and the reply or why there is none."""

    prompt: Prompt
    reply: Reply | None
    error: str | None = None


def answer(
    config: recipe.Evaluate,
    name: str,
    system: str | None,
    examples: Sequence[recipe.Turn],
    endpoint: Endpoint,
    prompts: Table,
    context: Context,
) -> Outcome:
    """One model's answers to the held-out prompts, ordered by id.

    A failed request is a row with its error. Raises StageError as soon as more rows failed than the recipe allows.
    """
    chosen = choose(prompts, config)
    view = View(name, system, examples, config.max_tokens, config.temperature)
    context.progress.start(context.label, len(chosen), "answers")
    asked = asyncio.run(_answer_all(endpoint, view, chosen, config.concurrency, context))
    return _outcome(config, [_row(name, a) for a in asked], context)


def answer_paid(
    config: recipe.Evaluate, teacher: recipe.Teacher, prompts: Table, budget: float | None, context: Context
) -> Outcome:
    """The answers of a teacher behind a URL to the held-out prompts. None is paid for twice by this step, however often
    it is begun; another `limit` is another step. Rows that failed for a passing reason are asked again when it is.

    `budget` is the most that they may cost, in US dollars. Raises OverBudget, StageError when more rows failed than the
    recipe allows, Interrupted after Ctrl-C.
    """
    chosen = choose(prompts, config)
    folder = storage.join(context.url, ASKED)
    parts = [
        write_part(folder, config.split, Prompt, chosen[i : i + PAID_ROWS]) for i in range(0, len(chosen), PAID_ROWS)
    ]
    found = [_newest(Unit(f"answered-{p.path}", storage.join(folder, p.path), p.sha256, folder)) for p in parts]
    newest, paid = [unit for unit, _ in found], sum(cost for _, cost in found)
    todo = [unit for unit in newest if not storage.exists(unit.url)]
    replica = Replica(asked_as(config, teacher).model_dump(mode="json", by_alias=True), None)
    context.progress.start(context.label, len(todo), "units")
    with driver.spending(replica, folder, todo, budget, paid):
        for done in driver.in_driver(replica, todo, context.compute.generate.units_in_flight, context.stopping):
            context.progress.advance(1, rows=done.counts["rows"], tokens=done.counts["output_tokens"])
    if not all(storage.exists(unit.url) for unit in newest):
        raise Interrupted("stopped; every answer so far is kept: run the same command to go on")
    said = [g for unit in newest for g in decode(Generation, storage.read(unit.url), unit.url)]
    rows = [
        Answer(
            id=g.id,
            model="teacher",
            split=g.split,
            text=g.text,
            finish_reason=g.finish_reason,
            prompt_tokens=g.prompt_tokens,
            output_tokens=g.output_tokens,
            ttft_s=0.0,
            elapsed_s=g.elapsed_s,
            error=g.error,
        )
        for g in said
    ]
    more = "Run again to ask those again that failed for a passing reason"
    _check([row.error for row in rows], len(rows), "teacher", context.max_error_rate, more)
    return _outcome(config, rows, context, cost=sum(g.cost for g in said))


def asked_as(config: recipe.Evaluate, teacher: recipe.Teacher) -> recipe.Teacher:
    """The teacher as it is asked held-out rows: once each, with the bounds that all models have."""
    drawn = {"temperature": config.temperature, "max_tokens": config.max_tokens, "n": 1}
    return teacher.model_copy(update={"sampling": teacher.sampling.model_copy(update=drawn)})


def _newest(unit: Unit) -> tuple[Unit, float]:
    """The unit's last try, or the next one while rows of that failed for a passing reason; and what it has cost so far."""
    paid = 0.0
    while storage.exists(unit.url):
        counts = published(unit).counts
        paid = max(paid, counts["cost"])
        if not counts["transient"]:
            break
        unit = units.again(unit)
    return unit, paid


def _outcome(config: recipe.Evaluate, answers: Sequence[Answer], context: Context, **counted: float) -> Outcome:
    rows = sorted(answers, key=lambda row: row.id)
    errors = collections.Counter(row.error for row in rows if row.error)
    counts = {
        "rows": len(rows),
        "errors": dict(errors),
        "truncated": sum(row.finish_reason == "length" for row in rows),
        "prompt_tokens": sum(row.prompt_tokens for row in rows),
        "output_tokens": sum(row.output_tokens for row in rows),
        **counted,
    }
    return Outcome("answers", [write_part(context.url, config.split, Answer, rows)], Answer.SCHEMA, counts)


def measure(
    config: recipe.Evaluate,
    name: str,
    system: str | None,
    examples: Sequence[recipe.Turn],
    endpoint: Endpoint,
    prompts: Table,
    hardware: str,
    context: Context,
) -> Outcome:
    """One model's speed: for each stated concurrency, `load_requests` answers after a warm-up that is not counted.

    Each concurrency asks prompts that the ones before it did not, as far as there are enough, so that an engine's
    prefix cache helps no one more than another. Raises StageError when too many requests fail.
    """
    view = View(name, system, examples, config.max_tokens, config.temperature)
    supply = itertools.cycle(choose(prompts, config))
    context.progress.start(context.label, len(config.load), "loads")
    loads = []
    for concurrency in config.load:
        warm_up = list(itertools.islice(supply, concurrency))
        timed = list(itertools.islice(supply, config.load_requests))
        asked, elapsed_s = asyncio.run(_timed(endpoint, view, warm_up, timed, concurrency, context))
        _check([a.error for a in asked], len(timed), name, context.max_error_rate)
        loads.append(load(asked, elapsed_s, name, hardware, concurrency, endpoint.stats().get(name, {})))
        context.progress.advance(1)
    return Outcome("load", [write_part(context.url, "load", Load, loads)], Load.SCHEMA, {"loads": len(loads)})


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


def load(
    asked: Sequence[Asked], elapsed_s: float, model: str, hardware: str, concurrency: int, stats: Mapping[str, int]
) -> Load:
    """The figures of one run of requests that took `elapsed_s` together.

    Time per output token is over the tokens after the first. Failed requests are counted and have no times.
    Raises StageError when all failed.
    """
    replies = [a.reply for a in asked if a.reply is not None]
    if not replies:
        raise StageError(f"{model} answered none of {len(asked)} requests, so it has no speed; see the log for why")
    ttft_s = [r.ttft_s for r in replies]
    answer_s = [r.elapsed_s for r in replies]
    token_s = [(r.elapsed_s - r.ttft_s) / (r.output_tokens - 1) for r in replies if r.output_tokens > 1]
    return Load(
        model=model,
        hardware=hardware,
        concurrency=concurrency,
        requests=len(asked),
        errors=len(asked) - len(replies),
        elapsed_s=elapsed_s,
        ttft_s=float(np.median(ttft_s)),
        ttft_p95_s=float(np.percentile(ttft_s, 95)),
        time_per_output_token_s=float(np.median(token_s)) if token_s else 0.0,
        seconds_per_answer=float(np.median(answer_s)),
        seconds_per_answer_p95=float(np.percentile(answer_s, 95)),
        output_tokens_per_s=sum(r.output_tokens for r in replies) / elapsed_s,
        answers_per_s=len(replies) / elapsed_s,
        weights_bytes=stats.get("weights_bytes", 0),
        peak_memory_bytes=stats.get("peak_memory_bytes", 0),
    )


async def _answer_all(
    endpoint: Endpoint, view: View, prompts: Sequence[Prompt], concurrency: int, context: Context
) -> list[Asked]:
    done: list[Asked] = []
    async with (
        Client(endpoint.base_url, endpoint.key) as client,
        contextlib.aclosing(_ask(client, view, prompts, concurrency, context)) as replies,
    ):
        async for asked in replies:
            done.append(asked)
            tokens = asked.reply.output_tokens if asked.reply else 0
            context.progress.advance(1, tokens=tokens, rejects=int(asked.error is not None))
            _check([a.error for a in done], len(prompts), view.model, context.max_error_rate)
    return done


async def _timed(
    endpoint: Endpoint,
    view: View,
    warm_up: Sequence[Prompt],
    timed: Sequence[Prompt],
    concurrency: int,
    context: Context,
) -> tuple[list[Asked], float]:
    """The timed requests, and the seconds from the first one's start to the last one's end."""
    async with Client(endpoint.base_url, endpoint.key) as client:
        async for _ in _ask(client, view, warm_up, concurrency, context):
            pass
        started = time.perf_counter()
        asked = [a async for a in _ask(client, view, timed, concurrency, context)]
        return asked, time.perf_counter() - started


async def _ask(
    client: Client, view: View, prompts: Sequence[Prompt], concurrency: int, context: Context
) -> AsyncGenerator[Asked, None]:
    """Replies as they come, with so many requests in flight. Raises Interrupted after Ctrl-C."""
    waiting = iter(prompts)
    running = {asyncio.ensure_future(_ask_one(client, view, p)) for p in itertools.islice(waiting, concurrency)}
    try:
        while running:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            if context.stopping.is_set():
                raise Interrupted("stopped while asking; run the same command to ask again")
            more = itertools.islice(waiting, len(done))
            running |= {asyncio.ensure_future(_ask_one(client, view, p)) for p in more}
            for task in done:
                yield task.result()
    finally:
        for task in running:
            task.cancel()


async def _ask_one(client: Client, view: View, prompt: Prompt) -> Asked:
    try:
        reply = await client.chat(view.model, view.messages(prompt), view.max_tokens, view.temperature)
    except RequestFailed as e:
        return Asked(prompt, None, str(e))
    return Asked(prompt, reply)


def _row(model: str, asked: Asked) -> Answer:
    prompt, reply = asked.prompt, asked.reply
    if reply is None:
        return Answer(prompt.id, model, prompt.split, "", "error", 0, 0, 0.0, 0.0, asked.error)
    return Answer(
        id=prompt.id,
        model=model,
        split=prompt.split,
        text=reply.text,
        finish_reason=reply.finish_reason,
        prompt_tokens=reply.prompt_tokens,
        output_tokens=reply.output_tokens,
        ttft_s=reply.ttft_s,
        elapsed_s=reply.elapsed_s,
    )


def _check(
    asked: Sequence[str | None],
    total: int,
    model: str,
    max_error_rate: float,
    more: str = "The server's log says more",
) -> None:
    """Raise StageError when more requests have failed (their errors are not None) than `total` may."""
    errors = collections.Counter(error for error in asked if error is not None)
    if errors.total() > max_error_rate * total:
        reasons = "; ".join(f"{reason} ({n})" for reason, n in errors.most_common(3))
        raise StageError(
            f"{model} failed on {errors.total()} of {len(asked)} requests, more than max_error_rate {max_error_rate} "
            f"of {total} allows: {reasons}. {more}; raise max_error_rate to go on regardless"
        )

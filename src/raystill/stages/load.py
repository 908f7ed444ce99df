"""load: how fast served models are under stated numbers of users, and how many they serve within an objective.

Models that are served together are measured in turns: each load in two halves, the second in reverse order, so a machine
that slows down or warms up helps none of them. All get the same prompts, after a warm-up that is not counted.
"""

import asyncio
import hashlib
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raystill import energy, recipe
from raystill.artifacts import Outcome, Table, write_part
from raystill.asking import Asked, Endpoint, View, ask, check, choose
from raystill.client import Client
from raystill.context import Context
from raystill.errors import StageError
from raystill.metrics.speed import figures, next_load
from raystill.records import Load, Prompt

VERSION = 2
REQUESTS_PER_USER = 4
"""Least requests of a load, per user: with fewer, most would be asked while others end."""


def measure(
    config: recipe.Evaluate,
    views: Sequence[View],
    endpoint: Endpoint,
    prompts: Table,
    hardware: str,
    context: Context,
) -> dict[str, list[Load]]:
    """Each model's loads, by its name, in order of users.

    Raises StageError where nothing is answered, and when too many requests of a load of evaluate.load fail; those of the
    search break the objective then.
    """
    rows = choose(prompts, config)
    found: dict[str, list[Load]] = {view.model: [] for view in views}
    context.progress.start(context.label, None, "loads")
    while waiting := {v.model: n for v in views if (n := next_load(config, found[v.model])) is not None}:
        users = min(waiting.values())
        arms = [view for view in views if waiting.get(view.model) == users]
        for model, arm in asyncio.run(_in_turns(config, arms, endpoint, rows, users, context)).items():
            if all(a.reply is None for a in arm.asked):
                raise StageError(
                    f"{model} answered none of {len(arm.asked)} requests, so it has no speed; see the log for why"
                )
            if users in config.load:
                check([a.error for a in arm.asked], len(arm.asked), model, context.max_error_rate)
            joules, of = energy.spent([(before["energy_j"], after["energy_j"]) for before, after in arm.meters])
            measured = {
                **endpoint.stats().get(model, {}),
                "kv_bytes_per_token": arm.meters[-1][1]["kv_bytes_per_token"],
                "energy_j": joules,
                "energy_of": of,
            }
            replies = [a.reply for a in arm.asked]
            found[model].append(figures(replies, arm.elapsed_s, model, hardware, users, measured))
            context.progress.advance(1)
    return {model: sorted(loads, key=lambda x: x.concurrency) for model, loads in found.items()}


def outcome(loads: Sequence[Load], context: Context) -> Outcome:
    """One model's loads, stored."""
    return Outcome("load", [write_part(context.url, "load", Load, loads)], Load.SCHEMA, {"loads": len(loads)})


@dataclass
class Arm:
    """What one model was asked in its turns, and what they took together."""

    asked: list[Asked] = field(default_factory=list)
    elapsed_s: float = 0.0
    meters: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = field(default_factory=list)
    """Its server's, before and after each turn."""


async def _in_turns(
    config: recipe.Evaluate,
    views: Sequence[View],
    endpoint: Endpoint,
    rows: Sequence[Prompt],
    users: int,
    context: Context,
) -> dict[str, Arm]:
    """One load of each model. Its prompts come in an order that the number of users alone decides."""
    supply = itertools.cycle(sorted(rows, key=lambda p: hashlib.sha256(f"{users}/{p.id}".encode()).digest()))
    warm_up = list(itertools.islice(supply, users))
    timed = list(itertools.islice(supply, max(config.load_requests, REQUESTS_PER_USER * users)))
    middle = len(timed) // 2 if len(views) > 1 else len(timed)
    turns = [(view, timed[:middle]) for view in views] + [(view, timed[middle:]) for view in reversed(views)]
    arms = {view.model: Arm() for view in views}
    async with Client(endpoint.base_url, endpoint.key, at_once=users) as client:
        for view in views:
            async for _ in ask(client, view, warm_up, users, context, retry=False):
                pass
        for view, part in turns:
            arm, before = arms[view.model], await _meters(endpoint, view.model)
            started = time.perf_counter()
            arm.asked += [a async for a in ask(client, view, part, users, context, retry=False)]
            arm.elapsed_s += time.perf_counter() - started
            arm.meters.append((before, await _meters(endpoint, view.model)))
    return arms


async def _meters(endpoint: Endpoint, model: str) -> Mapping[str, Any]:
    """What a server tells now. In a thread: within an event loop Ray Serve waits for no answer."""
    return await asyncio.to_thread(endpoint.meters, model)

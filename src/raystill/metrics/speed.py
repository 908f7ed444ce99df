"""Requests under a stated load to figures, and to the number of users that a model serves within an objective.

A user asks, waits for the whole answer and asks again at once, so n users are n requests in flight. Users served is a number
that was measured: the largest load at which the objective held, never a value between two.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raystill import recipe
from raystill.client import Reply
from raystill.records import Load

GROWTH = 4
"""Each load while the objective holds is so many times the one before."""
RESOLUTION = 0.25
"""The search ends when what held and what did not differ by this share of what held, or by one user."""
FAILED_SHARE = 0.01
"""More failed requests than that break any objective: who is refused is not served, however fast."""


def figures(
    replies: Sequence[Reply | None],
    elapsed_s: float,
    model: str,
    hardware: str,
    users: int,
    measured: Mapping[str, Any],
) -> Load:
    """The figures of requests, of which None failed, that took `elapsed_s` together; at least one must have been answered.

    Time per output token is over the tokens after the first. `measured` holds what the endpoint's stats say, and `energy_j`
    over these requests with `energy_of`. The cache's bytes are for the `users` longest rows at once: the most it can be.
    """
    answered = [reply for reply in replies if reply is not None]
    ttft_s = [r.ttft_s for r in answered]
    answer_s = [r.elapsed_s for r in answered]
    token_s = [(r.elapsed_s - r.ttft_s) / (r.output_tokens - 1) for r in answered if r.output_tokens > 1] or [0.0]
    longest = sorted(r.prompt_tokens + r.output_tokens for r in answered)[-users:]
    kv_bytes_per_token = measured.get("kv_bytes_per_token")
    return Load(
        model=model,
        hardware=hardware,
        concurrency=users,
        requests=len(replies),
        errors=len(replies) - len(answered),
        elapsed_s=elapsed_s,
        ttft_s=float(np.median(ttft_s)),
        ttft_p95_s=float(np.percentile(ttft_s, 95)),
        ttft_p99_s=float(np.percentile(ttft_s, 99)),
        time_per_output_token_s=float(np.median(token_s)),
        time_per_output_token_p95_s=float(np.percentile(token_s, 95)),
        time_per_output_token_p99_s=float(np.percentile(token_s, 99)),
        seconds_per_answer=float(np.median(answer_s)),
        seconds_per_answer_p95=float(np.percentile(answer_s, 95)),
        seconds_per_answer_p99=float(np.percentile(answer_s, 99)),
        output_tokens_per_s=sum(r.output_tokens for r in answered) / elapsed_s,
        answers_per_s=len(answered) / elapsed_s,
        weights_bytes=measured.get("weights_bytes", 0),
        peak_memory_bytes=measured.get("peak_memory_bytes", 0),
        kv_bytes_per_token=kv_bytes_per_token,
        kv_bytes=kv_bytes_per_token and kv_bytes_per_token * sum(longest),
        energy_j=measured.get("energy_j"),
        energy_of=measured.get("energy_of"),
    )


def holds(load: Load, objective: recipe.Objective) -> bool:
    """Whether a load keeps to every limit of the objective, and answers."""
    limits = [
        (load.ttft_p95_s, objective.ttft_p95_s),
        (load.time_per_output_token_p95_s, objective.tpot_p95_s),
        (load.seconds_per_answer_p95, objective.latency_p95_s),
    ]
    return load.errors <= FAILED_SHARE * load.requests and all(s <= limit for s, limit in limits if limit is not None)


def served(loads: Sequence[Load], objective: recipe.Objective) -> tuple[int, int | None]:
    """Users served, 0 where not even one is, and the least load above that broke the objective; None where none did."""
    broken = min((x.concurrency for x in loads if not holds(x, objective)), default=None)
    most = max((x.concurrency for x in loads if broken is None or x.concurrency < broken), default=0)
    return most, broken


def next_load(config: recipe.Evaluate, loads: Sequence[Load]) -> int | None:
    """The users to measure next: those of evaluate.load; with an objective then 1, 4, 16, … until it breaks, and between the
    last that held and the first that did not. None when all is known."""
    done = {x.concurrency for x in loads}
    if stated := [users for users in config.load if users not in done]:
        return stated[0]
    if config.objective is None:
        return None
    most, broken = served(loads, config.objective)
    if broken is not None:
        middle = round(math.sqrt(most * broken))
        return middle if broken - most > max(1, RESOLUTION * most) and most < middle < broken else None
    steps = [GROWTH**i for i in range(config.max_users.bit_length())]
    return next((u for u in [*(s for s in steps if s < config.max_users), config.max_users] if u > most), None)

"""One prompt to several models at once: their answers beside each other, with times, tokens, cost and agreement."""

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from raystill.client import Reply
from raystill.metrics.token_f1 import normal, overlap
from raystill.recipe import Prices
from raystill.tasks import Task


@dataclass(frozen=True)
class Told:
    """What one model said and how long its machine worked on that, in seconds; or why it said nothing."""

    model: str
    reply: Reply | None
    machine_s: float
    error: str | None = None

    def shown(self, prices: Prices) -> dict[str, Any]:
        """With its cost, the share of a machine's hour that it took: machine_s / 3600 * prices.machine_hour."""
        cost = self.machine_s / 3600 * prices.machine_hour if prices.machine_hour else None
        said = asdict(self.reply) if self.reply else {}
        return {"model": self.model, **said, "machine_s": self.machine_s, "cost": cost, "error": self.error}


def comparison(answers: Sequence[Told], task: Task | None, prices: Prices) -> dict[str, Any]:
    """All answers, and how far each two agree from 0 to 1: whether the task reads the same out of both, or without a `task`
    that reads answers the F1 of their words. `usage` is the sum, where who counts tokens looks for it."""
    texts = {told.model: told.reply.text for told in answers if told.reply}
    replies = [told.reply for told in answers if told.reply]
    prompt_tokens, output_tokens = sum(r.prompt_tokens for r in replies), sum(r.output_tokens for r in replies)
    return {
        "object": "comparison",
        "answers": [told.shown(prices) for told in answers],
        "agreement_by": "task" if task else "token_f1",
        "agreement": [
            {"models": [left, right], "value": agreement(texts[left], texts[right], task)}
            for left, right in itertools.combinations(texts, 2)
        ],
        "currency": prices.currency if prices.machine_hour else None,
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": output_tokens,
            "total_tokens": prompt_tokens + output_tokens,
        },
    }


def agreement(left: str, right: str, task: Task | None) -> float:
    """How far two answers say the same. Two that the task cannot read do not."""
    if task is None:
        return overlap(normal(left), normal(right))
    read = task.parse(left)
    return float(read is not None and read == task.parse(right))

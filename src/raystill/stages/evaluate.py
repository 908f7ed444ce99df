"""evaluate: what served models answer to held-out prompts, all over HTTP.

It knows endpoints only, never an engine: those that a run serves, and the URL of a paid teacher. `metrics.compare` makes
numbers of the stored answers, without inference.
"""

import asyncio
import collections
import contextlib
from collections.abc import Sequence

from raystill import recipe
from raystill.artifacts import Outcome, Table, write_part
from raystill.asking import Asked, Endpoint, View, ask, check, choose
from raystill.client import Client
from raystill.context import Context
from raystill.records import Answer, Prompt, Sure
from raystill.teachers import paid

VERSION = 1


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
    view = View(name, system, examples, config.max_tokens, config.temperature, stream=False)
    asked = _asked(config, view, endpoint, prompts, context)
    return _outcome(config, [_row(name, a) for a in asked], context)


def sure(
    config: recipe.Evaluate,
    name: str,
    system: str | None,
    examples: Sequence[recipe.Turn],
    endpoint: Endpoint,
    prompts: Table,
    context: Context,
) -> Outcome:
    """As `answer`, with the mean probability of each answer's tokens; an answer without any is left out."""
    view = View(name, system, examples, config.max_tokens, config.temperature, logprobs=True, stream=False)
    replies = [(a.prompt.id, a.reply) for a in _asked(config, view, endpoint, prompts, context) if a.reply]
    rows = [Sure(row, r.text, r.probability) for row, r in replies if r.probability is not None]
    rows.sort(key=lambda row: row.id)
    return Outcome("sure", [write_part(context.url, config.split, Sure, rows)], Sure.SCHEMA, {"rows": len(rows)})


def answer_paid(
    config: recipe.Evaluate, teacher: recipe.Teacher, prompts: Table, budget: float | None, context: Context
) -> Outcome:
    """The answers of a teacher behind a URL to the held-out prompts. None is paid for twice by this step, however often
    it is begun; another `limit` is another step. Rows that failed for a passing reason are asked again when it is.

    `budget` is the most that they may cost, in US dollars. Raises OverBudget, StageError when more rows failed than the
    recipe allows, Interrupted after Ctrl-C.
    """
    said = paid.ask(asked_as(config, teacher), config.split, choose(prompts, config), budget, context)
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
    check([row.error for row in rows], len(rows), "teacher", context.max_error_rate, more)
    return _outcome(config, rows, context, cost=sum(g.cost for g in said))


def asked_as(config: recipe.Evaluate, teacher: recipe.Teacher) -> recipe.Teacher:
    """The teacher as it is asked held-out rows: once each, with the bounds that all models have."""
    drawn = {"temperature": config.temperature, "max_tokens": config.max_tokens, "n": 1}
    return teacher.model_copy(update={"sampling": teacher.sampling.model_copy(update=drawn)})


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


def _asked(config: recipe.Evaluate, view: View, endpoint: Endpoint, prompts: Table, context: Context) -> list[Asked]:
    """All held-out prompts, asked. Raises StageError as soon as more failed than the recipe allows."""
    chosen = choose(prompts, config)
    context.progress.start(context.label, len(chosen), "answers")
    return asyncio.run(_answer_all(endpoint, view, chosen, config.concurrency, context))


async def _answer_all(
    endpoint: Endpoint, view: View, prompts: Sequence[Prompt], concurrency: int, context: Context
) -> list[Asked]:
    done: list[Asked] = []
    async with (
        Client(endpoint.base_url, endpoint.key) as client,
        contextlib.aclosing(ask(client, view, prompts, concurrency, context)) as replies,
    ):
        async for asked in replies:
            done.append(asked)
            tokens = asked.reply.output_tokens if asked.reply else 0
            context.progress.advance(1, tokens=tokens, rejects=int(asked.error is not None))
            if asked.error is not None:
                check([a.error for a in done], len(prompts), view.model, context.max_error_rate)
    return done


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
        ttft_s=0.0,
        elapsed_s=reply.elapsed_s,
    )

"""generate: the teacher answers the train and validation prompts; test prompts never come here.

One long Ray Data execution whose rows are units, not prompts: replicas read, answer and publish units by themselves, so
no prompt passes through the driver or the object store and an engine is built once. What is published stays published:
a resumed run does only units that are not there, and takes over equal units of earlier runs.
"""

import collections
import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from raystill import chat, engine, placement, plugins, recipe
from raystill.artifacts import Checkpoint, File, Outcome, Table
from raystill.context import Context
from raystill.errors import Interrupted, ModelError, OverBudget, StageError
from raystill.records import Generation, Prompt
from raystill.teachers import KINDS, Teacher, driver, pool
from raystill.teachers import units as unit
from raystill.teachers.replica import Replica, published
from raystill.teachers.units import Done, Unit

VERSION = 2
TEMPLATE_TOKENS = 256
"""More than a chat template adds of its own to a prompt of some turns."""
EARLY_ROWS = 200
"""Rows after which a run whose teacher mostly fails stops itself."""
NOTHING: dict[str, Any] = dict.fromkeys(
    ("rows", "answers", "truncated", "prompt_tokens", "output_tokens", "transient", "cost"), 0
) | {"errors": {}}
"""What no unit at all adds up to."""


def needs_ray(teacher: recipe.Teacher) -> bool:
    """Whether this teacher runs in actors."""
    kind: type[Teacher] = plugins.load(teacher.kind, KINDS, "teacher")
    return not kind.local


def generate(
    teacher: recipe.Teacher,
    model: Checkpoint | None,
    prompts: Table,
    budget: float | None,
    before: Table | None,
    context: Context,
) -> Outcome:
    """Generations for every train and validation prompt, in units that keep their prompts' split.

    `budget` is the most that a paid teacher may cost for them, in US dollars. `before` is an earlier outcome, of which only
    rows rejected for a passing reason are asked again. Raises StageError when more rows fail than the recipe allows,
    OverBudget, Interrupted after Ctrl-C.
    """
    kind = plugins.identity(teacher.kind, KINDS, "teacher")
    decides = {"teacher": teacher.identity() | {"kind": kind}, "version": VERSION}
    decides["model"] = model.fingerprint if model else None
    units = unit.of(prompts, decides, context.url)
    if before is not None:
        units = unit.retried(units, before, lambda u: int(published(u).counts["transient"]))
    todo, reused = unit.take_over(units, context.url)

    context.progress.start(context.label, len(units), "units")
    waiting, files, counts = set(todo), list[File](), dict(NOTHING)
    with ThreadPoolExecutor(unit.AT_ONCE) as readers:
        for there in readers.map(published, (u for u in units if u not in waiting)):
            files.append(there.file)
            counts = _sum(counts, there.counts)
            _advance(context, there, reused=there.counts["rows"])
    if todo and model is not None:
        _refuse_long(teacher, model.papers(), prompts, context.max_error_rate)
    paid = max(counts["cost"], before.counts.get("cost", 0.0) if before else 0.0)
    try:
        for done in _answers(teacher, model, todo, budget, paid, context):
            files.append(done.file)
            counts = _sum(counts, done.counts)
            _advance(context, done)
            if counts["rows"] >= EARLY_ROWS:
                _refuse_errors(counts, context.max_error_rate)
            if context.stopping.is_set() and needs_ray(teacher):
                break
    except OverBudget as e:
        e.add_note(f"{len(files)} of {len(units)} units are done; every answer that was paid for is kept")
        raise
    if context.stopping.is_set() and len(files) < len(units):
        raise Interrupted("stopped; finished units are kept: run the same command to go on")

    _check_whole(counts, prompts)
    _refuse_errors(counts, context.max_error_rate)
    counts |= {"reused_units": len(reused), "units": len(units)}
    named = teacher.endpoint.model if teacher.endpoint else teacher.model or teacher.recipe or teacher.kind
    facts = {"teacher": named, "kind": teacher.kind}
    if model is not None:
        facts["tokenizer"] = chat.tokenizer_fingerprint(model.papers())
    files.sort(key=lambda f: f.path)
    return Outcome("generations", files, Generation.SCHEMA, counts, facts)


def _refuse_long(teacher: recipe.Teacher, folder: str, prompts: Table, max_error_rate: float) -> None:
    """Raise ModelError when too many of the first prompts do not fit the teacher's context: no engine need start for that."""
    first = list(itertools.islice(prompts.rows(Prompt, "train", "validation"), EARLY_ROWS))
    takes, longer = engine.context_length(folder), ""
    if teacher.kind == "vllm":
        takes, longer = engine.context_tokens(folder, teacher.engine), ", raise teacher.engine.max_model_len"
    # A token has a byte at least: most prompts are seen to be short without a tokenizer, which takes seconds to load.
    room = takes - TEMPLATE_TOKENS
    rows = [row for row in first if chat.view_bytes(row, teacher.system, teacher.examples) > room]
    if len(rows) <= max_error_rate * len(first):
        return
    seen = (teacher.system, teacher.examples, teacher.chat_template_kwargs)
    long = chat.too_long(chat.load_tokenizer(folder), rows, *seen, takes)
    if len(long) > max_error_rate * len(first):
        raise ModelError(
            f"{len(long)} of the first {len(first)} prompts leave no room for an answer in the teacher's context of "
            f"{takes} tokens, first {long[0]}; shorten teacher.system or teacher.examples{longer}, or take a teacher "
            "with a longer context"
        )


def _answers(
    teacher: recipe.Teacher,
    model: Checkpoint | None,
    units: Sequence[Unit],
    budget: float | None,
    paid: float,
    context: Context,
) -> Iterator[Done]:
    """Units as they are published, in any order. `paid` is what the published ones have cost."""
    wide = context.compute.generate
    asked = placement.asked(teacher.kind, teacher.engine, wide)
    block = teacher.model_copy(update={"engine": asked or teacher.engine}).model_dump(mode="json", by_alias=True)
    if not units:
        return
    if not needs_ray(teacher):
        replica = Replica(block, model)
        # The last rows of a unit are waited for: there must be about twice as many rows at hand as requests in flight.
        at_once = max(wide.units_in_flight, teacher.endpoint.concurrency // 100 if teacher.endpoint else 0)
        with driver.spending(replica, context.url, units, budget, paid):
            yield from driver.in_driver(replica, units, at_once, context.stopping)
        return
    engine.refuse_unknown(teacher.engine, "teacher.engine")
    yield from pool.over_replicas("generate", Replica, (block, model), units, wide, asked, context.progress.say)


def _advance(context: Context, done: Done, **scalars: float) -> None:
    counts = done.counts
    rejects = sum(counts["errors"].values())
    context.progress.advance(1, rows=counts["rows"], tokens=counts["output_tokens"], rejects=rejects, **scalars)


def _sum(counts: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    errors = collections.Counter(counts["errors"]) + collections.Counter(more["errors"])
    return {k: counts[k] + more[k] for k in NOTHING if k != "errors"} | {"errors": dict(errors)}


def _check_whole(counts: Mapping[str, Any], prompts: Table) -> None:
    expected = sum(part.rows for part in prompts.parts("train", "validation"))
    if counts["rows"] != expected:
        raise StageError(
            f"generate holds {counts['rows']} rows for {expected} prompts; move its folder away and run again"
        )


def _refuse_errors(counts: Mapping[str, Any], max_error_rate: float) -> None:
    errors = collections.Counter(counts["errors"])
    if errors.total() > max_error_rate * counts["rows"]:
        reasons = "; ".join(f"{reason} ({n})" for reason, n in errors.most_common(3))
        raise StageError(
            f"the teacher failed on {errors.total()} of {counts['rows']} rows, more than max_error_rate {max_error_rate}: "
            f"{reasons}. Mend the rows or the teacher, or raise max_error_rate; finished units are kept"
        )

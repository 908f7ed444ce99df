"""score: what the teacher thinks at every token of the examples' answers, stored as soft targets, unit by unit.

Units, resuming and taking over equal ones work as in generate; one long Ray Data execution builds each engine once.
"""

import collections
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from raystill import chat, placement, recipe, storage
from raystill.artifacts import Checkpoint, Outcome, Table, describe
from raystill.context import Context
from raystill.errors import Interrupted, StageError
from raystill.records import Targets
from raystill.teachers import pool, tokens
from raystill.teachers import units as unit
from raystill.teachers.fidelity import Sums
from raystill.teachers.scorer import Scorer, scored
from raystill.teachers.units import Done

VERSION = 4


def score(
    score: recipe.Score,
    teacher: recipe.Teacher,
    model: Checkpoint,
    examples: Table,
    context: Context,
    further: Sequence[tuple[recipe.Teacher, Checkpoint]] = (),
) -> Outcome:
    """Targets for every train and validation example, in the same parts; counts say what they keep of a probe of rows.

    With `further` teachers they are those of the mixture of all, in the order of `score.mixture`.

    Raises StageError when more rows cannot be scored than the recipe allows, Interrupted after Ctrl-C.
    """
    decides = {"score": score.identity(), "teacher": teacher.identity(), "model": model.fingerprint, "version": VERSION}
    decides |= {"further": [[t.identity(), m.fingerprint] for t, m in further]}
    written_by = examples.facts.get("tokenizers", {})
    units = unit.of(examples, decides | {"tokenizers": written_by}, context.url)
    todo, reused = unit.take_over(units, context.url)
    context.progress.start(context.label, len(units), "units")
    waiting = set(todo)
    with ThreadPoolExecutor(unit.AT_ONCE) as readers:
        done = list(readers.map(scored, (u for u in units if u not in waiting)))
    for unit_done in done:
        _advance(context, unit_done)
    if todo:
        wide = context.compute.generate
        asked = placement.asked(score.kind, teacher.engine, wide)
        block = _dumped(teacher.model_copy(update={"engine": asked or teacher.engine}))
        others = [(_dumped(t), m) for t, m in further]
        arguments = (score.model_dump(mode="json"), block, model, dict(written_by), others)
        found = pool.over_replicas("score", Scorer, arguments, todo, wide, asked, context.progress.say)
        for unit_done in found:
            done.append(unit_done)
            _advance(context, unit_done)
            if context.stopping.is_set() and len(done) < len(units):
                raise Interrupted("stopped; finished units are kept: run the same command to go on")
    counts = _total(done) | {"reused_units": len(reused), "units": len(units)}
    _check(counts, context.max_error_rate)
    tokenizer = chat.load_tokenizer(model.papers())
    spoken = tokens.of(tokenizer).dump()
    storage.put_if_absent(storage.join(context.url, tokens.FILE), spoken)
    facts = score.identity() | {"tokenizer": chat.fingerprint(tokenizer), "teacher": model.fingerprint}
    facts |= {"parts": {u.source.rpartition("/")[2]: u.name for u in units}}
    files = [*sorted((d.file for d in done), key=lambda f: f.path), describe(tokens.FILE, spoken)]
    return Outcome("targets", files, Targets.SCHEMA, counts, facts)


def _dumped(teacher: recipe.Teacher) -> dict[str, Any]:
    return teacher.model_dump(mode="json", by_alias=True)


def consistent(
    generations: Mapping[str, Table], examples: Table, scorers: Sequence[tuple[recipe.Teacher, Checkpoint]]
) -> float:
    """Share of the train examples that a scoring teacher wrote, seeing prompts as it sees them when it scores.

    Lightning OPD (arXiv 2604.13010): where another one wrote what a student learnt first, on-policy rounds keep a bias.
    """

    def scores(table: Table) -> bool:
        made = table.manifest
        return made is not None and any(
            made.inputs.get("teacher") == model.fingerprint and teacher.view().items() <= made.config["teacher"].items()
            for teacher, model in scorers
        )

    wrote = collections.Counter(examples.column("teacher", "train"))
    return sum(wrote[name] for name, table in generations.items() if scores(table)) / max(1, wrote.total())


def _advance(context: Context, done: Done) -> None:
    counts = done.counts
    context.progress.advance(1, rows=counts["rows"], tokens=counts["tokens"], rejects=sum(counts["errors"].values()))


def _total(done: Sequence[Done]) -> dict[str, Any]:
    errors: collections.Counter[str] = collections.Counter()
    for d in done:
        errors.update(d.counts["errors"])
    tokens = sum(d.counts["tokens"] for d in done)
    stored = sum(d.file.bytes for d in done)
    return {
        "rows": sum(d.counts["rows"] for d in done),
        "tokens": tokens,
        "errors": dict(errors),
        "bytes_per_token": stored / max(1, tokens),
        "fidelity": _fidelity([Sums(**sums) for d in done for sums in d.counts["probed"]]),
    }


def _fidelity(probed: Sequence[Sums]) -> dict[str, Any]:
    """Means over the tokens of the probe; the divergence in nats, None where the engine gives no whole distribution."""
    tokens = sum(k.tokens for k in probed)
    known = [k.divergence for k in probed if k.divergence is not None]
    return {
        "rows": len(probed),
        "tokens": tokens,
        "mass_kept": sum(k.mass for k in probed) / max(1, tokens),
        "divergence": sum(known) / max(1, tokens) if len(known) == len(probed) else None,
    }


def _check(counts: dict[str, Any], max_error_rate: float) -> None:
    failed = sum(counts["errors"].values())
    if failed > max_error_rate * (counts["rows"] + failed):
        reasons = "; ".join(f"{reason} ({n})" for reason, n in collections.Counter(counts["errors"]).most_common(3))
        raise StageError(
            f"the teacher could not score {failed} of {counts['rows'] + failed} answers, more than max_error_rate "
            f"{max_error_rate}: {reasons}. Finished units are kept"
        )

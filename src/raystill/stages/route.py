"""route: the prompts of one who answers: by a column's value, because the teacher before failed, or a drawn share.

Parts keep their names' split and their order, so a unit whose rows stay the same keeps its answers.
"""

import collections
import hashlib
import json
from collections.abc import Callable

from raystill import recipe, tasks
from raystill.artifacts import Outcome, Table, decode, write_part
from raystill.context import Context
from raystill.errors import DataError
from raystill.records import Generation, Prompt
from raystill.teachers.units import SPLITS

VERSION = 1
OTHERS = "*"
"""Key of route.map for every value that it does not name."""


def by_column(route: recipe.ByColumn, name: str, prompts: Table, context: Context) -> Outcome:
    """The prompts whose column's value leads to this teacher. Raises DataError for a value that leads nowhere."""
    lost: collections.Counter[str] = collections.Counter()

    def wanted(prompt: Prompt) -> bool:
        value = str(json.loads(prompt.columns).get(route.by))
        to = route.map.get(value, route.map.get(OTHERS))
        lost[value] += to is None
        return to == name

    outcome = _chosen(prompts, wanted, context)
    if nowhere := +lost:
        said = ", ".join(f"{value!r} ({n} rows)" for value, n in nowhere.most_common(5))
        raise DataError(
            f"route.map leads nowhere for {route.by} = {said}; name these values, or add '{OTHERS}': TEACHER"
        )
    return outcome


def failed(task: recipe.Task, prompts: Table, before: Table, context: Context) -> Outcome:
    """The prompts of which none of the answers before is one that the task's check would keep."""
    references = {r for r in before.column("reference", *SPLITS) if r is not None}
    check = tasks.keeps(task, tasks.load(task, references))
    good = {g.id for g in before.rows(Generation, *SPLITS) if not g.error and g.text and check(g, g.text) is None}
    return _chosen(prompts, lambda prompt: prompt.id not in good, context)


def drawn(share: float, number: int, prompts: Table, context: Context) -> Outcome:
    """A share of the prompts, drawn anew for each number. Raises DataError when it holds no train prompt."""

    def wanted(prompt: Prompt) -> bool:
        return int.from_bytes(hashlib.sha256(f"{number}/{prompt.id}".encode()).digest()[:8]) < share * 2**64

    outcome = _chosen(prompts, wanted, context)
    if not any(file.path.startswith("train-") for file in outcome.files):
        raise DataError(f"on_policy.lambda {share:g} draws none of the train prompts; raise it, or give more of them")
    return outcome


def _chosen(prompts: Table, wanted: Callable[[Prompt], bool], context: Context) -> Outcome:
    parts = prompts.parts(*SPLITS)
    context.progress.start(context.label, len(parts), "parts")
    files, rows = [], 0
    for part in parts:
        kept = [p for p in decode(Prompt, prompts.read(part.path), f"{prompts.url}/{part.path}") if wanted(p)]
        if kept:
            files.append(write_part(context.url, kept[0].split, Prompt, kept))
        rows += len(kept)
        context.progress.advance(1)
    return Outcome("prompts", files, Prompt.SCHEMA, {"rows": rows, "of": sum(part.rows for part in parts)})

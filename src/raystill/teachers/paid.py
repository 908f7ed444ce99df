"""Rows asked of an endpoint that may cost money, outside generate: each is paid once, however often its step is begun."""

from collections.abc import Sequence

from raystill import recipe, storage
from raystill.artifacts import decode, write_part
from raystill.context import Context
from raystill.errors import Interrupted
from raystill.records import Generation, Prompt
from raystill.teachers import driver, units
from raystill.teachers.replica import Replica, published
from raystill.teachers.units import Unit

ROWS = 64
"""Rows that are asked together and published together."""
ASKED = "asked"
"""The folder, in its step's, of what an endpoint was asked and said."""


def ask(
    teacher: recipe.Teacher, split: str, prompts: Sequence[Prompt], budget: float | None, context: Context
) -> list[Generation]:
    """One answer per prompt. Rows that failed for a passing reason are asked again when the step is begun again.

    `budget` is the most that the step may cost, in US dollars. Raises OverBudget, and Interrupted after Ctrl-C.
    """
    folder = storage.join(context.url, ASKED)
    parts = [write_part(folder, split, Prompt, prompts[i : i + ROWS]) for i in range(0, len(prompts), ROWS)]
    found = [_newest(Unit(f"answered-{p.path}", storage.join(folder, p.path), p.sha256, folder)) for p in parts]
    newest, paid = [unit for unit, _ in found], sum(cost for _, cost in found)
    todo = [unit for unit in newest if not storage.exists(unit.url)]
    replica = Replica(teacher.model_dump(mode="json", by_alias=True), None)
    context.progress.start(context.label, len(todo), "units")
    with driver.spending(replica, folder, todo, budget, paid):
        for done in driver.in_driver(replica, todo, context.compute.generate.units_in_flight, context.stopping):
            context.progress.advance(1, rows=done.counts["rows"], tokens=done.counts["output_tokens"])
    if not all(storage.exists(unit.url) for unit in newest):
        raise Interrupted("stopped; every answer so far is kept: run the same command to go on")
    return [g for unit in newest for g in decode(Generation, storage.read(unit.url), unit.url)]


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

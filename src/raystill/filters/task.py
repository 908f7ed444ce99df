"""task: answers that are invalid by the recipe's task, such as one that is no label."""

from collections.abc import Sequence

from raystill.filters import Rules
from raystill.records import Generation


def task(rows: Sequence[Generation], rules: Rules) -> list[str | None]:
    """Drop answers that the task's check refuses, with its reason."""
    return [rules.check(row, row.text) for row in rows]

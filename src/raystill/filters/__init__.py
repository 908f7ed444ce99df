"""Which answers are worth learning from. A filter is a function of one file here, or the user's own as `module:attr`.

It is given whole prompts (all samples of each) as Generation rows, and says for every row, in order, why it is dropped,
in words that hold no content, or None. So length, verifiers, best-of-n and majority are one contract. A filter that
must see all rows at once is marked `@whole_set("text", …)` with the columns it reads; the others are empty then.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from raystill.records import Generation, Prompt

KINDS = {
    "empty": "raystill.filters.empty:empty",
    "truncated": "raystill.filters.truncated:truncated",
    "overlong": "raystill.filters.overlong:overlong",
    "duplicate": "raystill.filters.duplicate:duplicate",
    "task": "raystill.filters.task:task",
    "best": "raystill.filters.best:best",
}


@dataclass(frozen=True)
class Rules:
    """What filters go by besides the rows."""

    max_tokens: int
    check: Callable[[Prompt, str], str | None]
    """The task's check."""
    parse: Callable[[str], str | None]
    """What an answer says, by the task."""


Filter = Callable[[Sequence[Generation], Rules], list[str | None]]
F = TypeVar("F", bound=Filter)
_COLUMNS = "whole_set_columns"


def whole_set(*columns: str) -> Callable[[F], F]:
    """Mark a filter as one that sees the whole set at once, in these columns beside each row's key and split."""

    def mark(function: F) -> F:
        setattr(function, _COLUMNS, columns)
        return function

    return mark


def columns_of(function: Filter) -> tuple[str, ...] | None:
    """The columns of a filter over the whole set; None for one that sees whole prompts."""
    columns: tuple[str, ...] | None = getattr(function, _COLUMNS, None)
    return columns

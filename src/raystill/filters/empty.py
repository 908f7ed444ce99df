"""empty: answers without any text teach nothing."""

from collections.abc import Sequence

from raystill.filters import Rules
from raystill.records import Generation


def empty(rows: Sequence[Generation], rules: Rules) -> list[str | None]:
    """Drop answers of whitespace alone."""
    return [None if row.text.strip() else "empty" for row in rows]

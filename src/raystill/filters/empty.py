"""empty: answers without any text and without a tool call teach nothing."""

from collections.abc import Sequence

from raystill.filters import Rules
from raystill.records import Generation


def empty(rows: Sequence[Generation], rules: Rules) -> list[str | None]:
    """Drop answers of whitespace alone."""
    return [None if row.text.strip() or row.tool_calls else "empty" for row in rows]

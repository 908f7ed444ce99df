"""truncated: an answer cut off by its token limit teaches never to stop."""

from collections.abc import Sequence

from raystill.filters import Rules
from raystill.records import Generation


def truncated(rows: Sequence[Generation], rules: Rules) -> list[str | None]:
    """Drop answers whose finish_reason is "length"."""
    return ["truncated" if row.finish_reason == "length" else None for row in rows]

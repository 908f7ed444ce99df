"""overlong: answers beyond `curate.max_tokens`, which are mostly loops."""

from collections.abc import Sequence

from raystill.filters import Rules
from raystill.records import Generation


def overlong(rows: Sequence[Generation], rules: Rules) -> list[str | None]:
    """Drop answers of more output tokens than the rule allows, in the teacher's tokens."""
    return ["overlong" if row.output_tokens > rules.max_tokens else None for row in rows]

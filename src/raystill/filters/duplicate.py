"""duplicate: the same answer to the same messages is kept once, in the whole set; near-duplicates stay."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence

from raystill.filters import Rules, whole_set
from raystill.records import Generation


@whole_set("messages", "tools", "text", "reasoning", "tool_calls")
def duplicate(rows: Sequence[Generation], rules: Rules) -> list[str | None]:
    """Keep the first of equal (messages, tools, answer). n samples that say the same collapse into one."""
    seen: set[bytes] = set()
    reasons: list[str | None] = []
    for row in rows:
        said = [[dataclasses.astuple(m) for m in row.messages], row.tools, row.text, row.reasoning, row.tool_calls]
        key = hashlib.sha256(json.dumps(said).encode()).digest()
        reasons.append("duplicate" if key in seen else None)
        seen.add(key)
    return reasons

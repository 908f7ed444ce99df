"""Early stopping: which validation was the best, and when waiting for a better one ends.

Both follow from the curve alone, so a resumed run decides as an uninterrupted one would have done.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from raystill.recipe import VALIDATION_LOSS, EarlyStopping


def ranked(curve: Sequence[Mapping[str, Any]], metric: str) -> list[int]:
    """Steps that were validated, the best first; of equals the earlier. A loss is better when lower, all else when higher."""
    sign = 1 if metric == VALIDATION_LOSS else -1
    seen = [(sign * row[metric], row["step"]) for row in curve if row.get(metric) is not None]
    return [step for value, step in sorted(seen) if math.isfinite(value)]


def over(curve: Sequence[Mapping[str, Any]], early: EarlyStopping | None) -> str | None:
    """Why training ends before its last step; None while it goes on."""
    best = ranked(curve, early.metric)[:1] if early else []
    if early is None or early.patience is None or not best:
        return None
    waited = sum(row.get(early.metric) is not None for row in curve[best[0] :])
    return f"no better {early.metric} in {waited} validations" if waited >= early.patience else None

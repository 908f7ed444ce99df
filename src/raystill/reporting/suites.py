"""Further test data as the report tells it: each model's metrics with an interval, or lm-eval's with its standard error."""

from collections.abc import Sequence
from typing import Any

from raystill.metrics.bootstrap import CONFIDENCE
from raystill.metrics.compare import Comparison
from raystill.records import SuiteScore

SuiteReport = dict[str, Any]


def suite(found: Comparison | Sequence[SuiteScore]) -> SuiteReport:
    """`models`: by model its metrics, each with value, rows and interval or stderr."""
    if isinstance(found, Comparison):
        return {
            "by": "raystill",
            "confidence": CONFIDENCE,
            "rows": found.rows,
            "notes": found.notes,
            "models": {
                name: {
                    metric: {"value": v.value, "interval": list(v.interval) if v.interval else None, "rows": v.rows}
                    for metric, v in model.metrics.items()
                }
                for name, model in found.models.items()
            },
        }
    models: dict[str, dict[str, Any]] = {}
    for score in found:
        told = {"value": score.value, "stderr": score.stderr, "rows": score.rows}
        models.setdefault(score.model, {})[f"{score.task}: {score.metric}"] = told
    return {"by": "lm-eval", "models": models}

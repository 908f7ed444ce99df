"""A published case study beside what was measured here: DeepSeek-V3 to Phi-4-mini on 50,000 support conversations, said to be
illustrative by its authors (Azure's tutorial on distillation). Its five figures are a gate that a recipe may ask for."""

from typing import Any

from raystill.reporting.gate import figure

PUBLISHED = {
    "latency_ratio": ("Time per answer", 0.15),
    "memory_ratio": ("Memory", 0.05),
    "retention": ("Accuracy kept", 0.92),
    "cost_ratio": ("Cost", 0.40),
    "users_ratio": ("Users at once", 10.0),
}
"""By the gate's keys: a name, and the published ratio of student to teacher."""


def case_study(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Its lines: name, published and measured ratio of the first student; empty when nothing was measured."""
    if not report["student"]:
        return []
    found = []
    for key, (name, ratio) in PUBLISHED.items():
        measured, *_ = figure(report["student"], key, report)
        found.append({"key": key, "name": name, "published": ratio, "measured": measured})
    return found if any(line["measured"] is not None for line in found) else []

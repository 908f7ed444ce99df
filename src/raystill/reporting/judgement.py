"""A judge's verdicts as the report tells them: in report.json, on the page and in judge.md."""

from typing import Any

from raystill.metrics.compare import Value
from raystill.metrics.judged import Judged
from raystill.reporting import figures
from raystill.reporting.findings import Judgement

SIMULATED = ("simulated", "scripted")
"""A judge so named is a stand-in: its figures say nothing of the models."""
FEW = 30
"""Fewer rows than that decide nothing, whatever their interval."""
MOVED = 0.3
"""A judge that changes more of its verdicts with the order is told so."""


def judgement(found: Judgement) -> dict[str, Any]:
    """All of it as plain values; `rate` is a share of wins where two are compared, else a mean score from 1 to 5."""
    return {
        "by": found.by,
        "mode": found.mode,
        "simulated": _simulated(found),
        "asked": found.counts["asked"],
        "unparsed": found.counts["unparsed"],
        "cost": found.counts["cost"] or None,
        "lines": [_line(line) for line in found.lines],
        "notes": _notes(found),
    }


def table(told: dict[str, Any]) -> str:
    """The same as Markdown, a line per pair of models or per model."""
    paired = told["mode"] == "pairwise"
    head = ["", *(("wins", "won / tied / lost", "moved by order") if paired else ("score", "1 / 2 / 3 / 4 / 5"))]
    head += ["kappa with references", "kappa with people"]
    rows = [[line["name"], *line["cells"], *line["kappas"]] for line in shown(told)]
    text = "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])
    notes = "".join(f"- {note}\n" for note in told["notes"])
    return f"Judged by {told['by']}, {told['asked']} requests.\n\n{text}\n\n{notes}"


def shown(told: dict[str, Any]) -> list[dict[str, Any]]:
    """Lines as people read them: name, cells, kappas."""
    found = []
    for line in told["lines"]:
        interval, counts = line["rate_interval"], line["counts"]
        if line["against"] is None:
            name, order = line["model"], []
            rate = figures.NONE if line["rate"] is None else f"{line['rate']:.2f}"
            bounds = f" ({interval[0]:.2f}–{interval[1]:.2f})" if interval else ""
            cells = " / ".join(str(counts.get(score, 0)) for score in "12345")
        else:
            name, order = f"{line['model']} against {line['against']}", [figures.percent(line["moved"])]
            rate, bounds = figures.percent(line["rate"]), f" ({figures.percents(interval)})" if interval else ""
            cells = " / ".join(str(counts[key]) for key in ("wins", "ties", "losses"))
        kappas = [_kappa(line["agrees"].get(whom)) for whom in ("references", "people")]
        found.append({"name": name, "cells": [rate + bounds, cells, *order], "kappas": kappas})
    return found


def _simulated(found: Judgement) -> bool:
    return any(word in found.by.lower() for word in SIMULATED)


def _line(line: Judged) -> dict[str, Any]:
    return {
        "model": line.model,
        "against": line.against,
        "rows": line.rate.rows if line.rate else 0,
        "rate": line.rate.value if line.rate else None,
        "rate_interval": list(line.rate.interval) if line.rate and line.rate.interval else None,
        "counts": dict(line.counts),
        "moved": line.moved,
        "first": line.first,
        "agrees": {whom: _value(value) for whom, value in line.agrees.items()},
    }


def _value(value: Value) -> dict[str, Any]:
    return {"kappa": value.value, "interval": list(value.interval) if value.interval else None, "rows": value.rows}


def _kappa(agrees: dict[str, Any] | None) -> str:
    if agrees is None:
        return figures.NONE
    interval = agrees["interval"]
    return f"{agrees['kappa']:.2f}" + (f" ({interval[0]:.2f} to {interval[1]:.2f})" if interval else "")


def _notes(found: Judgement) -> list[str]:
    notes = []
    if _simulated(found):
        notes.append("simulated: the judge is a script, so its figures say nothing of the models")
    if found.compared:
        notes.append(f"the judge is {found.compared} itself, and models prefer what they would have said")
    if unparsed := found.counts["unparsed"]:
        asked = found.counts["asked"]
        notes.append(
            f"in {unparsed} of {asked} requests the judge gave no verdict that can be read; they count for nobody"
        )
    for line in found.lines:
        name = line.model if line.against is None else f"{line.model} against {line.against}"
        rows = line.rate.rows if line.rate else 0
        if rows < FEW:
            notes.append(f"{name}: {rows} rows are too few to decide anything; raise evaluate.judge.rows or give more")
        if line.moved is not None and line.moved > MOVED:
            notes.append(f"{name}: {figures.percent(line.moved)} of the verdicts changed with the order of the answers")
    if not any(line.agrees for line in found.lines):
        notes.append(
            "nobody has checked this judge: no row has a reference that tells right from wrong, and nobody voted"
        )
    return notes

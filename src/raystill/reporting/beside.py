"""Two runs beside each other: every metric of every model that both have, and what their recipes say differently.

Where both were asked the same rows, a difference has a paired bootstrap interval over the rows; corpus metrics (BLEU, macro
F1) have none, for their values are not means of rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raystill.metrics import difference, mean
from raystill.metrics.bootstrap import interval
from raystill.records import Metric
from raystill.reporting import figures

Report = dict[str, Any]


def beside(first: Report, second: Report, rows: Sequence[Sequence[Metric]], resamples: int) -> Iterator[str]:
    """Lines to print; `rows` are both runs' values of single answers."""
    values = [_values(of) for of in rows]
    asked = [{id_ for of in run.values() for id_ in of} for run in values]
    yield f"{first['recipe']} ({first['made_at']}) and {second['recipe']} ({second['made_at']})"
    same = asked[0] == asked[1]
    if not same:
        shared = f"{len(asked[0] & asked[1])} of {len(asked[0])} and {len(asked[1])}"
        yield f"asked different rows ({shared} are the same): no intervals"
    lines = [["", "", first["recipe"], second["recipe"], "difference"]]
    for name in (n for n in first["models"] if n in second["models"]):
        models = first["models"][name], second["models"][name]
        for key in figures.metric_names(models):
            if all(model.get(key) is not None for model in models):
                left, right = (of.get((name, key), {}) for of in values)
                told = _difference(key, left, right, resamples) if same else ""
                lines.append([name, figures.metric_name(key), *(figures.metric(key, m[key]) for m in models), told])
    yield from _aligned(lines)
    changed = list(_changes(_settings(first), _settings(second)))
    yield "the recipes say the same" if not changed else "the recipes differ in:"
    yield from (f"  {key}: {left} -> {right}" for key, left, right in changed)


def _values(rows: Sequence[Metric]) -> dict[tuple[str, str], dict[str, float]]:
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        found.setdefault((row.model, row.metric), {})[row.id] = row.value
    return found


def _difference(key: str, left: Mapping[str, float], right: Mapping[str, float], resamples: int) -> str:
    """The second less the first, with its interval; nothing where rows have no value of their own."""
    if not left or not right or left.keys() != right.keys():
        return ""
    paired = difference(mean([right[i] for i in sorted(right)]), mean([left[i] for i in sorted(left)]))
    found = interval(paired, resamples)
    bounds = f" [{', '.join(figures.metric_points(key, v) for v in found)}]" if found else ""
    return figures.metric_points(key, paired.point()) + bounds


def _settings(report: Report) -> Report:
    return {**report["settings"], "teacher": report["models"]["teacher"]["source"], "task": report["task"]}


def _changes(left: Any, right: Any, at: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(left, dict) and isinstance(right, dict):
        for key in dict.fromkeys((*left, *right)):
            yield from _changes(left.get(key), right.get(key), f"{at}.{key}" if at else key)
    elif left != right:
        yield at, left, right


def _aligned(rows: list[list[str]]) -> Iterator[str]:
    plain = [[cell.replace(figures.THIN, " ") for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in plain) for i in range(len(plain[0]))]
    for row in plain:
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()

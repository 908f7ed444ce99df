"""Two runs beside each other: every metric of every model that both have, and what their recipes say differently.

Where both were asked the same rows, a difference has a paired bootstrap interval over the rows; corpus metrics (BLEU, macro
F1) have none, for their values are not means of rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from raystill.metrics import difference, mean
from raystill.metrics.bootstrap import interval
from raystill.records import Metric
from raystill.reporting import figures

HERE = Path(__file__).parent
Report = dict[str, Any]


@dataclass(frozen=True)
class Beside:
    """Two runs: how many rows each was asked and both were, a line per metric, and settings that differ.

    A line is model, metric, first value, second value, and the difference where each row has a value of its own; a change is
    key, first, second.
    """

    first: Report
    second: Report
    asked: tuple[int, int, int]
    lines: Sequence[Sequence[str]]
    changes: Sequence[tuple[str, Any, Any]]

    @property
    def heard(self) -> str:
        """On which rows they are compared."""
        one, other, both = self.asked
        if one == other == both:
            return f"both were asked the same {both} rows"
        return f"asked different rows ({both} of {one} and {other} are the same): no intervals"


def beside(first: Report, second: Report, rows: Sequence[Sequence[Metric]], resamples: int) -> Beside:
    """Two reports; `rows` are both runs' values of single answers."""
    values = [_values(of) for of in rows]
    one, other = ({id_ for of in run.values() for id_ in of} for run in values)
    lines = []
    for name in (n for n in first["models"] if n in second["models"]):
        models = first["models"][name], second["models"][name]
        for key in figures.metric_names(models):
            if all(model.get(key) is not None for model in models):
                left, right = (of.get((name, key), {}) for of in values)
                told = _difference(key, left, right, resamples) if one == other else ""
                lines.append([name, figures.metric_name(key), *(figures.metric(key, m[key]) for m in models), told])
    asked = len(one), len(other), len(one & other)
    return Beside(first, second, asked, lines, list(_changes(_settings(first), _settings(second))))


def text(found: Beside) -> str:
    """What is printed."""
    runs = found.first, found.second
    said = [" and ".join(f"{run['recipe']} ({run['made_at']})" for run in runs), found.heard]
    said += _aligned([["", "", *(run["recipe"] for run in runs), "difference"], *found.lines])
    said.append("the recipes differ in:" if found.changes else "the recipes say the same")
    return "\n".join([*said, *(f"  {key}: {left} -> {right}" for key, left, right in found.changes)])


def page(found: Beside) -> str:
    """The same as one HTML page."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    css = Markup((HERE / "report.css").read_text())
    return environment.get_template("beside.html.jinja").render(found=found, css=css)


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


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    plain = [[cell.replace(figures.THIN, " ") for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in plain) for i in range(len(plain[0]))]
    for row in plain:
        yield "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()

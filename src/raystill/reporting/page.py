"""The report as one HTML page: no script, no request to anywhere, readable on paper and by a screen reader."""

import collections
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from raystill.metrics.compare import TEACHER
from raystill.reporting import charts, curves, figures, headline, judgement
from raystill.reporting.differences import Differences, differences
from raystill.reporting.findings import Findings
from raystill.reporting.summary import Report

HERE = Path(__file__).parent
PAIRS = 40
"""Pairs of answers on the page: what one reads; the rest are counted, and stand in the answers' tables."""
WEAKEST = 12
"""Slices on the page; all of them stand in report.json."""
Show = Callable[[float | None], str]
SPEEDS: dict[str, tuple[str, Show]] = {
    "ttft_s": ("Time to first token", figures.seconds),
    "time_per_output_token_s": ("Time per further token", figures.seconds),
    "seconds_per_answer": ("Time per answer", figures.seconds),
    "seconds_per_answer_p95": ("Time per answer, 95th percentile", figures.seconds),
    "seconds_per_answer_p99": ("Time per answer, 99th percentile", figures.seconds),
    "output_tokens_per_s": ("Tokens per second", figures.rate),
    "answers_per_s": ("Answers per second", figures.rate),
    "peak_memory_bytes": ("Peak memory", figures.size),
    "kv_bytes": ("Cache of the longest rows", figures.size),
    "energy_j": (
        "Energy of the machine",
        lambda v: figures.NONE if v is None else f"{figures.three(v)}{figures.THIN}J",
    ),
}


NOTHING = Markup("")


@dataclass(frozen=True)
class Cell:
    """A value, what qualifies it, and how it is drawn."""

    text: str
    small: str = ""
    drawn: Markup = NOTHING


@dataclass(frozen=True)
class Line:
    """One line of a table: a cell per model."""

    name: str
    cells: list[Cell]


@dataclass(frozen=True)
class Speed:
    """One table of speeds."""

    concurrency: int
    lines: list[Line]


def page(report: Report, found: Findings) -> str:
    """The page, complete."""
    shown = {name: m for name, m in report["models"].items() if m["rows"] or m.get("load")}
    return (
        _environment()
        .get_template("report.html.jinja")
        .render(
            report=report,
            css=Markup((HERE / "report.css").read_text()),
            sentence=headline.sentence(report),
            four=headline.four(report),
            models=shown,
            qualities=_qualities(shown),
            sizes=_sizes(report, shown),
            speeds=_speeds(shown),
            weak={name: of[:WEAKEST] for name, of in report["slices"].items()},
            curves={name: c for name, points in found.curves.items() if (c := curves.curve(points))},
            answers=_answers(report, found),
            judged=judgement.shown(report["judge"]) if report["judge"] else [],
            suites={name: _suite_lines(of, shown) for name, of in report["suites"].items()},
        )
    )


def _qualities(models: Mapping[str, Report]) -> list[Line]:
    named = figures.metric_names(models.values())
    return [Line(figures.metric_title(key), [_quality(key, m) for m in models.values()]) for key in named]


def _quality(key: str, model: Report) -> Cell:
    value, interval = model.get(key), model.get(f"{key}_interval")
    if value is None:
        return Cell(figures.NONE)
    scale = 100 if key in figures.IN_POINTS else 1
    drawn = charts.bar(value / scale, [v / scale for v in interval] if interval else None, model["role"])
    return Cell(figures.metric(key, value), figures.metric_interval(key, interval) if interval else "", drawn)


def _suite_lines(suite: Report, models: Mapping[str, Report]) -> list[Line]:
    named = dict.fromkeys(metric for of in suite["models"].values() for metric in of)
    return [
        Line(figures.metric_title(key), [_scored(key, suite["models"].get(m, {}).get(key)) for m in models])
        for key in named
    ]


def _scored(key: str, score: Report | None) -> Cell:
    if score is None:
        return Cell(figures.NONE)
    if score.get("stderr") is not None:
        return Cell(figures.three(score["value"]), f"±{figures.THIN}{figures.three(score['stderr'])}")
    if "interval" not in score:
        return Cell(figures.three(score["value"]))
    interval = score["interval"]
    return Cell(figures.metric(key, score["value"]), figures.metric_interval(key, interval) if interval else "")


def _sizes(report: Report, models: Mapping[str, Report]) -> list[Line]:
    currency = report["cost"]["currency"]
    shown: dict[str, tuple[str, Show]] = {
        "parameters": ("Parameters", figures.short),
        "weights_bytes": ("Weights", figures.size),
        "cost_per_1000_answers": ("Cost of 1,000 answers", lambda v: figures.money(v, currency)),
        "cost_per_million_tokens": ("Cost of a million tokens of answers", lambda v: figures.money(v, currency)),
    }
    lines = [
        Line(name, [Cell(show(m.get(key))) for m in models.values()])
        for key, (name, show) in shown.items()
        if any(m.get(key) for m in models.values())
    ]
    if any(m.get("users") for m in models.values()):
        lines.append(Line("Users served within the objective", [_served(m.get("users")) for m in models.values()]))
    return lines


def _served(users: Report | None) -> Cell:
    if users is None:
        return Cell(figures.NONE)
    if users["broken_at"] is None:
        return Cell(figures.count(users["served"]), "and more: none tried was too many")
    return Cell(figures.count(users["served"]), f"no longer at {users['broken_at']:,}")


def _speeds(models: Mapping[str, Report]) -> list[Speed]:
    """A table per number of users at which several models were measured; a search for the most that one serves has others."""
    measured = collections.Counter(load["concurrency"] for m in models.values() for load in m["load"])
    shared = min(2, max(measured.values(), default=0))
    return [Speed(c, _speed_lines(models, c)) for c, n in sorted(measured.items()) if n >= shared]


def _speed_lines(models: Mapping[str, Report], concurrency: int) -> list[Line]:
    loads: list[Report] = [next((x for x in m["load"] if x["concurrency"] == concurrency), {}) for m in models.values()]
    return [
        Line(name, [Cell(show(load.get(key) or None)) for load in loads])
        for key, (name, show) in SPEEDS.items()
        if any(load.get(key) for load in loads)
    ]


def _answers(report: Report, found: Findings) -> dict[str, Differences]:
    """Per student, its answers beside the teacher's."""
    asked = TEACHER if report["models"][TEACHER]["rows"] else "reference"
    compared = {name: differences(found.said, asked, name, PAIRS) for name in report["students"]}
    return {name: d for name, d in compared.items() if d.rows}


def _busy(concurrency: int) -> str:
    return "One request at a time" if concurrency == 1 else f"{concurrency} requests at once"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "percent": figures.percent,
        "metric": figures.metric_name,
        "seconds": figures.seconds,
        "size": figures.size,
        "parameters": figures.parameters,
        "count": figures.count,
        "three": figures.three,
        "power": figures.power,
        "busy": _busy,
    }
    environment.globals |= {
        "money": figures.money, "points": figures.metric_points, "three": figures.three, "power": figures.power,
    }  # fmt: skip
    return environment

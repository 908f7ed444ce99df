"""The gate: does a student keep and save what the recipe asks for? Three answers, never a guess.

A bound is met (pass) when the whole 95% interval lies on its side, missed (fail) when the whole interval lies beyond it, and
otherwise undecided (inconclusive). A half-width shrinks with the square root of the rows, so the rows that would decide are
those at which the interval's nearer end reaches the bound, if the value stays where it is.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from raystill.metrics.compare import TEACHER
from raystill.recipe import Bound

Report = dict[str, Any]

PASS, FAIL, INCONCLUSIVE = "pass", "fail", "inconclusive"
EXIT_CODES = {PASS: 0, FAIL: 6, INCONCLUSIVE: 7}
"""What `raystill run` and `raystill report` end with."""
FEW = 30
"""Judged rows below which nothing is decided: the bootstrap draws from them alone, and 29 equal ones leave no width at all."""
RATIOS = {
    "latency_ratio": "median seconds per answer by the teacher's, at the lowest load that both were measured at",
    "memory_ratio": "bytes of the weights by the teacher's",
    "cost_ratio": "cost of 1,000 answers by the teacher's",
    "users_ratio": "users served within evaluate.objective by the teacher's",
}
"""Measured once: decided by their value, without an interval."""
SHARES = ("retention", "gap_closed")
"""Figures of a student beside others; all further keys are its own metrics."""


@dataclass(frozen=True)
class Decision:
    """One bound of one student. `rows_more` further test rows would decide it; None where none are needed or known."""

    student: str
    key: str
    bound: str
    value: float | None
    interval: list[float] | None
    verdict: str
    why: str
    rows_more: int | None = None


def gate(bounds: Mapping[str, Bound], report: Report) -> Report | None:
    """`verdict`, the worst of all, and each `decisions`; None without bounds."""
    if not bounds:
        return None
    decisions = [decide(s, key, bound, report) for s in report["students"] for key, bound in bounds.items()]
    found = {d.verdict for d in decisions}
    worst = next(verdict for verdict in (FAIL, INCONCLUSIVE, PASS) if verdict in found)
    return {"verdict": worst, "decisions": [asdict(d) for d in decisions]}


def decide(student: str, key: str, bound: Bound, report: Report) -> Decision:
    """One bound by one student's figures."""
    value, interval, rows = figure(student, key, report)
    told = (student, key, str(bound), value, interval)
    if value is None:
        return Decision(*told, INCONCLUSIVE, f"{key} was not measured; the report's notes say why")
    if key in RATIOS:
        met = bound.holds(value)
        return Decision(*told, PASS if met else FAIL, f"{RATIOS[key]}; measured once, so it has no interval")
    if rows < FEW:
        return Decision(*told, INCONCLUSIVE, f"{rows} judged rows decide nothing, {FEW - rows} more may", FEW - rows)
    if interval is None:
        return Decision(*told, INCONCLUSIVE, "it has no interval: some resamples have no value")
    if all(map(bound.holds, interval)):
        return Decision(*told, PASS, "the whole interval meets it")
    if bound.beyond(interval):
        return Decision(*told, FAIL, "the whole interval misses it")
    more = _rows_more(value, interval, bound, rows)
    said = (
        f"about {more:,} more test row{'s' if more > 1 else ''} would decide"
        if more
        else "the value lies on the bound: no number of rows decides"
    )
    return Decision(*told, INCONCLUSIVE, said, more)


def _rows_more(value: float, interval: list[float], bound: Bound, rows: int) -> int | None:
    """Rows to add until the end of the interval that crosses a bound only reaches it, the farther-reaching bound counting."""
    needed = []
    for at in (bound.min, bound.max):
        if at is None or not interval[0] <= at <= interval[1]:
            continue
        if value == at:
            return None
        half = value - interval[0] if at < value else interval[1] - value
        needed.append(rows * (half / (value - at)) ** 2)
    return max(1, math.ceil(round(max(needed), 6)) - rows) if needed else None


def figure(student: str, key: str, report: Report) -> tuple[float | None, list[float] | None, int]:
    """A figure, its interval and the rows behind it: those that it is judged on, which need not be all that were asked."""
    models, of = report["models"], report["students"][student]
    if key in RATIOS:
        return _ratio(key, of, models.get(TEACHER, {}), models[student]), None, 0
    entry = of if key in SHARES else models[student]
    return entry.get(key), entry.get(f"{key}_interval"), entry["over"].get(key, 0)


def _ratio(key: str, student: Report, teacher: Report, own: Report) -> float | None:
    """Student by teacher; the report's own ratios are the other way round."""
    if key == "latency_ratio":
        speeds = sorted(
            (s["concurrency"], s["seconds_per_answer"]) for s in student["speedup"] if "seconds_per_answer" in s
        )
        return 1 / speeds[0][1] if speeds else None
    if key == "memory_ratio":
        smaller = student["smaller"]["weights_bytes"]
        return 1 / smaller if smaller else None
    if key == "cost_ratio":
        left, right = own.get("cost_per_1000_answers"), teacher.get("cost_per_1000_answers")
    else:
        left, right = ((m.get("users") or {}).get("served") for m in (own, teacher))
    return left / right if left is not None and right else None


def lines(found: Report) -> Iterator[str]:
    """What a run ends with: the verdict, then each bound."""
    yield f"gate: {found['verdict'].upper()}"
    for d in found["decisions"]:
        value = "not measured" if d["value"] is None else f"{d['value']:.3g}"
        interval = f" [{d['interval'][0]:.3g}, {d['interval'][1]:.3g}]" if d["interval"] else ""
        yield f"  {d['verdict']:<12}  {d['student']}: {d['key']} {value}{interval}, wanted {d['bound']}; {d['why']}"

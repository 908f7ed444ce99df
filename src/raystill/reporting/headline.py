"""The report in one sentence, and in its four figures. What cannot be said is left out, what got worse is said."""

from collections.abc import Callable
from dataclasses import dataclass

from raystill.metrics.compare import ACCURACY
from raystill.reporting import figures
from raystill.reporting.summary import Report

EQUAL = 0.02
"""Ratios this near to 1 are 'as'; measurements differ by more from run to run."""


@dataclass(frozen=True)
class Figure:
    """One number to remember: its value, what it is, and what stands behind it."""

    value: str
    what: str
    detail: str


def sentence(report: Report) -> str:
    """What was kept and what was saved."""
    name, models, by = report["student"], report["models"], report["decided_by"]
    student = models[name]
    if _above_teacher(report):
        values = [figures.metric(by, models[m][by]) for m in (name, "teacher")]
        better = "is right more often" if by == ACCURACY else f"has a higher {figures.metric_name(by)}"
        start = f"The {name} {better} than its teacher ({values[0]} against {values[1]})"
    elif report["retention"] is not None:
        start = f"The {name} keeps {figures.percent(report['retention'])} of the teacher’s {figures.metric_name(by)}"
    elif student.get(ACCURACY) is not None:
        start = f"The {name} is right on {figures.percent(student[ACCURACY])} of the held-out rows"
    elif student.get(by) is not None:
        start = f"The {name} has a {figures.metric_name(by)} of {figures.metric(by, student[by])}"
    elif student.get("agreement") is not None:
        start = f"The {name} agrees with the teacher on {figures.percent(student['agreement'])} of the held-out rows"
    else:
        start = f"The {name} is trained"
    said = [start]
    if speeds := _speeds(report):
        said.append(_faster(speeds))
    if smaller := _smaller(report):
        said.append(_compared(smaller, lambda t: f"is {t} smaller", lambda t: f"is {t} larger", "is as large"))
    if (saved := _saved(report)) is not None and abs(saved) >= EQUAL:
        said.append(f"costs {figures.percent(abs(saved))} {'less' if saved > 0 else 'more'} per answer")
    return (said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}") + "."


def four(report: Report) -> list[Figure]:
    """Kept, faster, smaller, cheaper: those that were measured."""
    found, models, by = [], report["models"], report["decided_by"]
    student, teacher = models[report["student"]], models["teacher"]
    if report["retention"] is not None:
        interval = report["retention_interval"]
        detail = (
            f"95{figures.THIN}% interval {figures.percents(interval)}{figures.THIN}%" if interval else "no interval"
        )
        what = f"of the teacher’s {figures.metric_name(by)}" + ("" if _above_teacher(report) else " kept")
        found.append(Figure(figures.percent(report["retention"]), what, detail))
    elif student.get(by) is not None:
        found.append(Figure(figures.metric(by, student[by]), figures.metric_name(by), f"on {report['rows']} rows"))
    elif student.get("agreement") is not None:
        found.append(
            Figure(figures.percent(student["agreement"]), "agreement with the teacher", f"on {report['rows']} rows")
        )
    if speeds := _speeds(report):
        concurrency, ratio = speeds[0]
        then, now = (_at(m, concurrency)["seconds_per_answer"] for m in (teacher, student))
        detail = f"{figures.seconds(then)} to {figures.seconds(now)} per answer, {_busy(concurrency)}"
        found.append(_ratio(ratio, "faster", "slower", "the same speed", detail))
    if shrunk := _smaller(report):
        key = "parameters" if student["parameters"] and teacher.get("parameters") else "weights_bytes"
        show = figures.parameters if key == "parameters" else figures.size
        unit = " parameters" if key == "parameters" else " of weights"
        detail = f"{show(teacher[key])} to {show(student[key])}{unit}"
        found.append(_ratio(shrunk, "smaller", "larger", "the same size", detail))
    if (saved := _saved(report)) is not None:
        amounts = [figures.money(m["cost_per_1000_answers"], report["cost"]["currency"]) for m in (teacher, student)]
        detail = f"{amounts[0]} to {amounts[1]} per 1,000 answers"
        found.append(Figure(figures.percent(abs(saved)), "cheaper" if saved >= 0 else "dearer", detail))
    return found


def _compared(ratio: float, better: Callable[[str], str], worse: Callable[[str], str], equal: str) -> str:
    if abs(ratio - 1) < EQUAL:
        return equal
    return (better if ratio > 1 else worse)(f"{figures.three(max(ratio, 1 / ratio))} times")


def _faster(speeds: list[tuple[int, float]]) -> str:
    """How fast it answers alone, and under load where that is another verdict: no reader may be misled by the first."""
    verdicts = [_compared(ratio, lambda t: f"{t} faster", lambda t: f"{t} slower", "as fast") for _, ratio in speeds]
    if verdicts[0].split()[-1] == verdicts[-1].split()[-1]:
        return f"answers {verdicts[0]}"
    return f"answers {verdicts[0]} ({verdicts[-1]} with {_busy(speeds[-1][0])})"


def _ratio(ratio: float, better: str, worse: str, equal: str, detail: str) -> Figure:
    if abs(ratio - 1) < EQUAL:
        return Figure(figures.times(1.0), equal, detail)
    return Figure(figures.times(max(ratio, 1 / ratio)), better if ratio > 1 else worse, detail)


def _above_teacher(report: Report) -> bool:
    """Whether the whole interval of the retention lies above 1."""
    interval = report.get("retention_interval")
    return bool(interval and interval[0] > 1)


def _speeds(report: Report) -> list[tuple[int, float]]:
    """Concurrencies that teacher and student were measured at, lowest first, and the ratio of seconds per answer."""
    return sorted((s["concurrency"], s["seconds_per_answer"]) for s in report["speedup"] if s.get("seconds_per_answer"))


def _smaller(report: Report) -> float | None:
    ratio: float | None = report["smaller"]["parameters"] or report["smaller"]["weights_bytes"]
    return ratio


def _saved(report: Report) -> float | None:
    """Share of the teacher's cost per answer that the student saves."""
    then, now = (report["models"][m].get("cost_per_1000_answers") for m in ("teacher", report["student"]))
    return 1 - now / then if then and now else None


def _at(model: Report, concurrency: int) -> Report:
    load: Report = next(load for load in model["load"] if load["concurrency"] == concurrency)
    return load


def _busy(concurrency: int) -> str:
    return "one request at a time" if concurrency == 1 else f"{concurrency} requests at once"

"""The lines a run ends with."""

from collections.abc import Callable
from typing import Any

from raystill.reporting import figures, gate
from raystill.reporting.summary import Report

COLUMNS: dict[str, Callable[[Report], str]] = {
    "first token": lambda m: figures.seconds(_alone(m, "ttft_s")),
    "per answer": lambda m: figures.seconds(_alone(m, "seconds_per_answer")),
    "tokens/s": lambda m: figures.rate(_busiest(m, "output_tokens_per_s")),
    "parameters": lambda m: figures.short(m.get("parameters")),
    "weights": lambda m: figures.size(m.get("weights_bytes")),
}


def summary_table(report: Report) -> str:
    """Models by what they can, how fast they are and how large, then what the student kept and saved.

    Times are at the lowest measured concurrency, tokens/s at the highest.
    """
    by = report["decided_by"] or "accuracy"
    rows = [["", figures.metric_name(by), *COLUMNS]] + [
        [name, _with_interval(model, by), *(show(model) for show in COLUMNS.values())]
        for name, model in report["models"].items()
    ]
    plain = [[cell.replace(figures.THIN, " ") for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in plain) for i in range(len(plain[0]))]
    lines = [
        f"{row[0]:<{widths[0]}}  " + "  ".join(f"{c:>{w}}" for c, w in zip(row[1:], widths[1:], strict=True))
        for row in plain
    ]
    for name, student in report["students"].items():
        if student["retention"] is not None:
            kept = _with_interval(student, "retention").replace(figures.THIN, " ")
            rows = student["over"]["retention"]
            lines.append(f"{name} keeps {kept} of the teacher's {figures.metric_name(by)}, over {rows} rows")
        if student["gap_closed"] is not None:
            closed = _with_interval(student, "gap_closed").replace(figures.THIN, " ")
            lines.append(f"{name} closes {closed} of the gap between {student['baseline']} and teacher")
    if report["gate"]:
        lines += gate.lines(report["gate"])
    if report["simulated"]:
        lines.append("simulated: the scripted teacher answered, so these figures say nothing about a model")
    return "\n".join(lines)


def next_steps(recipe_path: str, folder: str) -> str:
    """Three things to try next."""
    return "\n".join(
        [
            "Try next:",
            f"  raystill chat {recipe_path} --model student    talk to the student in this terminal",
            f"  raystill serve {recipe_path}    an OpenAI-compatible endpoint, until Ctrl-C",
            f"  {folder}/report.html    the report, in your browser",
        ]
    )


def _with_interval(entry: Report, name: str) -> str:
    interval = entry.get(f"{name}_interval")
    return figures.metric(name, entry.get(name)) + (f" [{figures.metric_interval(name, interval)}]" if interval else "")


def _alone(model: Report, key: str) -> Any:
    loads: list[Report] = model.get("load", [])
    return min(loads, key=lambda load: load["concurrency"])[key] if loads else None


def _busiest(model: Report, key: str) -> Any:
    loads: list[Report] = model.get("load", [])
    return max(loads, key=lambda load: load["concurrency"])[key] if loads else None

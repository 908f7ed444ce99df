"""The report's numbers for a spreadsheet and for a pull request."""

import csv
import io
from collections.abc import Iterator
from typing import Any

from raystill.reporting.headline import sentence
from raystill.reporting.table import summary_table

Report = dict[str, Any]


def as_csv(report: Report) -> str:
    """One figure per line: model, metric, concurrency (empty for what no load decides), value, low, high."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["model", "metric", "concurrency", "value", "low", "high"])
    writer.writerows(_figures(report))
    return out.getvalue()


def _figures(report: Report) -> Iterator[list[Any]]:
    for name, model in report["models"].items():
        for about in (model, report["students"].get(name, {})):
            for key, value in about.items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    yield [name, key, "", value, *(about.get(f"{key}_interval") or ["", ""])]
        for load in model.get("load", []):
            for key, value in load.items():
                if key != "concurrency" and isinstance(value, int | float):
                    yield [name, key, load["concurrency"], value, "", ""]


def as_markdown(report: Report) -> str:
    """A headline, the table that a run ends with, the gate and the notes."""
    said = [f"# {report['recipe']}", sentence(report)] if report["student"] else [f"# {report['recipe']}"]
    said.append(f"```\n{summary_table(report)}\n```")
    if report["notes"]:
        said.append("\n".join(f"- {note}" for note in report["notes"]))
    return "\n\n".join(said) + "\n"

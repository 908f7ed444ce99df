"""The student's model card, as Markdown with the front matter that model hubs read."""

import json
from typing import Any

import yaml

from raystill.metrics.compare import TEACHER
from raystill.recipe import Cut
from raystill.reporting import figures
from raystill.reporting.findings import Findings
from raystill.reporting.summary import Report, teacher_source


def card(report: Report, found: Findings, name: str) -> str:
    """One student's card: what it is, what it learnt from, how it was measured, and what is not known."""
    recipe = found.recipe
    student = recipe.all_students()[name]
    base = student.init.from_ if isinstance(student.init, Cut) else student.model
    model = report["models"][name]
    front: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "base_model": base,
        "tags": ["raystill", "distillation", recipe.task.kind.partition(":")[0]],
    }
    return "\n".join(
        [
            "---",
            yaml.safe_dump(front, sort_keys=False).strip(),
            "---",
            "",
            f"# {recipe.name}: {name}",
            "",
            f"A student of {figures.parameters(model['parameters'])} parameters, distilled with raystill for the task "
            f"`{recipe.task.kind}` from `{teacher_source(recipe)}`. It starts from `{base}`.",
            "",
            "## Data",
            "",
            *_data(report),
            "",
            "## Measured",
            "",
            f"Over {report['rows']} held-out rows ({report['split']}), asked over HTTP, with "
            f"{figures.percent(report['confidence'])} intervals.",
            "",
            *_measured(report, name),
            "",
            "## Training",
            "",
            "```json",
            json.dumps(report["settings"]["train"][name], indent=2),
            "```",
            "",
            "## Limits",
            "",
            "- It was measured on rows like those it learnt from, and on nothing else.",
            "- It repeats its teacher's mistakes where the filters did not see them.",
            "- Whether a model may be trained on a teacher's answers, and what may be done with it, is up to the licences and "
            "terms of the teacher, of the base model and of the data. raystill does not check them.",
            "",
        ]
    )


def _data(report: Report) -> list[str]:
    data = report["data"]
    lines = [f"- prompts: {_by_split(data['prompts'])}", f"- answers of the teacher: {figures.count(data['answers'])}"]
    return [*lines, f"- examples that passed the filters: {_by_split(data['examples'])}"]


def _by_split(counts: dict[str, int]) -> str:
    return ", ".join(f"{figures.count(n)} {split}" for split, n in counts.items()) or "none"


def _measured(report: Report, name: str) -> list[str]:
    baseline = report["students"][name]["baseline"]
    shown = {n: report["models"][n] for n in (TEACHER, baseline, name) if n and report["models"][n]["rows"]}
    lines = ["| | " + " | ".join(shown) + " |", "| --- |" + " --- |" * len(shown)]
    for metric in figures.metric_names(shown.values()):
        lines.append(
            f"| {figures.metric_name(metric)} | " + " | ".join(_cell(m, metric) for m in shown.values()) + " |"
        )
    return lines


def _cell(model: Report, metric: str) -> str:
    interval = model.get(f"{metric}_interval")
    value = figures.metric(metric, model.get(metric))
    return f"{value} ({figures.metric_interval(metric, interval)})" if interval else value

"""Stored answers to the report's numbers: each model by itself, a student also beside teacher and baseline.

Pure: no inference, no storage. All models are compared on the rows that all of them were asked; an answer that failed
counts as wrong. Every value has a percentile bootstrap interval, paired wherever two models are compared. A metric that
needs references is absent when no row has one, and a note says why.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from raystill import plugins
from raystill.metrics import LABELS, TEXT, Floats, Sums, difference, mean, ratio
from raystill.metrics.bootstrap import Interval, interval
from raystill.records import Answer, Metric, Prompt

TEACHER = "teacher"
AGREEMENT = "agreement"


class Judge(Protocol):
    """What is needed of a task; `tasks.Task` says what each means."""

    metrics: ClassVar[tuple[str, ...]]

    def parse(self, text: str) -> str | None:
        """What an answer says."""

    def score(self, prompt: Prompt, text: str) -> dict[str, float]:
        """The task's own values for one answer."""


@dataclass(frozen=True)
class Value:
    """A metric over `rows` rows; no interval when a resample has no value."""

    value: float
    interval: Interval | None
    rows: int


@dataclass(frozen=True)
class Model:
    """One model's metrics by name, in the task's order, and agreement with the teacher for all but the teacher."""

    rows: int
    errors: int
    metrics: dict[str, Value]


@dataclass(frozen=True)
class Student:
    """A student beside teacher and baseline, by accuracy; None where one of the two, or accuracy, is missing."""

    baseline: str
    retention: Value | None
    """Student over teacher."""
    behind_teacher: Value | None
    """Student minus teacher."""
    gain: Value | None
    """Student minus baseline."""


@dataclass(frozen=True)
class Comparison:
    """All numbers of a report that come from answers."""

    rows: int
    models: dict[str, Model]
    students: dict[str, Student]
    notes: list[str]
    """Why a number is absent or partial, for the reader."""
    per_row: list[Metric]
    """Values of single answers: what `score` returns."""


def compare(
    task: Judge,
    name: str,
    prompts: Sequence[Prompt],
    answers: Mapping[str, Sequence[Answer]],
    students: Mapping[str, str],
    resamples: int,
) -> Comparison:
    """Compare models on the prompts that all of them were asked.

    `name` is the task's, for the rows; `answers` holds each model's by its name in the report; `students` maps each
    student to its baseline.
    """
    asked = _common(prompts, answers)
    said = {model: _aligned(asked, rows) for model, rows in answers.items()}
    per_row = score(task, name, asked, said)
    accuracy = _accuracies(per_row)
    models = {}
    for model, rows in said.items():
        metrics = {"accuracy": mean(accuracy[model])} if model in accuracy else {}
        metrics |= _reference_metrics(task, asked, rows)
        if model != TEACHER and TEACHER in said:
            metrics[AGREEMENT] = mean([m.value for m in per_row if m.model == model and m.metric == AGREEMENT])
        values = {key: measured for key, m in metrics.items() if (measured := _value(m, resamples))}
        models[model] = Model(len(rows), sum(a.error is not None for a in rows), values)
    return Comparison(
        rows=len(asked),
        models=models,
        students={s: _student(accuracy, s, b, resamples) for s, b in students.items() if s in said},
        notes=_notes(task, asked, accuracy, said),
        per_row=per_row,
    )


def score(task: Judge, name: str, prompts: Sequence[Prompt], answers: Mapping[str, Sequence[Answer]]) -> list[Metric]:
    """Values of single answers: the task's own, and agreement with the teacher. A failed answer has 0 everywhere."""
    by_id = {prompt.id: prompt for prompt in prompts}
    teacher = {a.id: a for a in answers.get(TEACHER, [])}
    rows = []
    for model, said in answers.items():
        for answer in said:
            values = task.score(by_id[answer.id], answer.text)
            if model != TEACHER and answer.id in teacher:
                values |= {AGREEMENT: float(_agree(task, teacher[answer.id], answer))}
            failed = answer.error is not None
            rows += [Metric(name, answer.id, model, key, 0.0 if failed else v) for key, v in values.items()]
    return rows


def _agree(task: Judge, one: Answer, other: Answer) -> bool:
    """Whether two answers say the same: what the task parses, or the words where it parses nothing."""
    if one.error is not None or other.error is not None:
        return False
    parsed = task.parse(one.text), task.parse(other.text)
    return parsed[0] == parsed[1] if any(p is not None for p in parsed) else one.text.split() == other.text.split()


def _common(prompts: Sequence[Prompt], answers: Mapping[str, Sequence[Answer]]) -> list[Prompt]:
    asked = [{a.id for a in rows} for rows in answers.values()]
    return [p for p in prompts if asked and all(p.id in ids for ids in asked)]


def _aligned(prompts: Sequence[Prompt], answers: Sequence[Answer]) -> list[Answer]:
    by_id = {a.id: a for a in answers}
    return [by_id[p.id] for p in prompts]


def _accuracies(per_row: Sequence[Metric]) -> dict[str, Floats]:
    """Accuracy per model and row, over the rows that have it; the rows are the same for all models."""
    found: dict[str, list[float]] = {}
    for metric in per_row:
        if metric.metric == "accuracy":
            found.setdefault(metric.model, []).append(metric.value)
    return {model: np.asarray(values, np.float64) for model, values in found.items()}


def _reference_metrics(task: Judge, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> dict[str, Sums]:
    pairs = [(a, p.reference) for p, a in zip(prompts, answers, strict=True) if p.reference is not None]
    if not pairs:
        return {}
    texts, references = ["" if a.error else a.text for a, _ in pairs], [reference for _, reference in pairs]
    found = {}
    for metric in task.metrics:
        if metric in TEXT:
            found[metric] = plugins.load(metric, TEXT, "metric")(texts, references)
        elif metric in LABELS:
            found[metric] = plugins.load(metric, LABELS, "metric")([task.parse(t) or "" for t in texts], references)
    return found


def _value(metric: Sums, resamples: int) -> Value | None:
    rows = len(metric.rows_RS)
    point = metric.point() if rows else float("nan")
    return Value(point, interval(metric, resamples), rows) if np.isfinite(point) else None


def _student(accuracy: Mapping[str, Floats], name: str, baseline: str, resamples: int) -> Student:
    own = accuracy.get(name)
    if own is None:
        return Student(baseline, None, None, None)
    teacher, before = accuracy.get(TEACHER), accuracy.get(baseline)
    return Student(
        baseline,
        retention=None if teacher is None else _value(ratio(own, teacher), resamples),
        behind_teacher=None if teacher is None else _value(difference(own, teacher), resamples),
        gain=None if before is None else _value(difference(own, before), resamples),
    )


def _notes(
    task: Judge, prompts: Sequence[Prompt], accuracy: Mapping[str, Floats], said: Mapping[str, Sequence[Answer]]
) -> list[str]:
    notes = []
    judged = max((len(values) for values in accuracy.values()), default=0)
    referenced = sum(p.reference is not None for p in prompts)
    if not judged:
        instead = "; agreement with the teacher stands in its place" if TEACHER in said else ""
        notes.append(f"no accuracy: no row has a reference or required facts (set data.reference){instead}")
    elif judged < len(prompts):
        notes.append(f"accuracy is over {judged} of {len(prompts)} rows: the others have nothing to judge them by")
    wanting = [m for m in task.metrics if m in TEXT or m in LABELS]
    if wanting and not referenced:
        notes.append(f"no {', '.join(wanting)}: no row has a reference; set data.reference to have them")
    elif wanting and referenced < len(prompts):
        notes.append(f"{', '.join(wanting)}: over {referenced} of {len(prompts)} rows, those with a reference")
    if TEACHER not in said:
        notes.append("no retention and no agreement: the teacher has no weights that could be asked")
    elif judged and not accuracy[TEACHER].any():
        notes.append("no retention: the teacher got no row right")
    return notes

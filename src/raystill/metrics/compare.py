"""Stored answers to the report's numbers: each model by itself, a student also beside teacher and baseline.

Pure: no inference, no storage. All models are compared on the rows that all of them were asked; an answer that failed
counts as wrong. What decides is accuracy, or where a task has none its first metric against references. Every value has
a percentile bootstrap interval, paired wherever two models are compared. A metric that needs references is absent when
no row has one, and a note says why.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from raystill.metrics import Sums, difference, mean, ratio
from raystill.metrics.bootstrap import Interval, interval
from raystill.records import Answer, Metric, Prompt

TEACHER = "teacher"
ACCURACY = "accuracy"
AGREEMENT = "agreement"
CONVERSATIONS = "whole_conversations"


class Judge(Protocol):
    """What is needed of a task; `tasks.Task` says what each means."""

    def parse(self, text: str) -> str | None:
        """What an answer says."""

    def score(self, prompt: Prompt, text: str) -> dict[str, float]:
        """The task's own values for one answer."""

    def measure(self, texts: Sequence[str], references: Sequence[str]) -> dict[str, Sums]:
        """Metrics against references."""


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
    """A student beside teacher and baseline, by the metric that decides; None where one of them is missing."""

    baseline: str
    by: str | None
    """The metric."""
    retention: Value | None
    """Student over teacher."""
    behind_teacher: Value | None
    """Student minus teacher."""
    gain: Value | None
    """Student minus baseline."""
    gap_closed: Value | None = None
    """The gain over what the teacher leads the baseline by; None where that lead is not certain."""


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
    means = {model: _means(asked, [m for m in per_row if m.model == model]) for model in said}
    against = {model: _against_references(task, asked, rows) for model, rows in said.items()}
    measured = {model: means[model] | against[model] for model in said}
    judged = any(ACCURACY in found for found in means.values())
    by = ACCURACY if judged else next((name for found in against.values() for name in found), None)
    models = {}
    for model, metrics in measured.items():
        values = {key: value for key in _order(metrics) if (value := estimate(metrics[key], resamples))}
        models[model] = Model(len(said[model]), sum(a.error is not None for a in said[model]), values)
    deciding = {model: metrics[by] for model, metrics in measured.items() if by in metrics} if by else {}
    return Comparison(
        rows=len(asked),
        models=models,
        students={s: _student(deciding, by, s, b, resamples) for s, b in students.items() if s in said},
        notes=_notes(asked, by, deciding, said),
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


def _means(prompts: Sequence[Prompt], per_row: Sequence[Metric]) -> dict[str, Sums]:
    """One model's metrics that are means over rows, or over conversations."""
    values: dict[str, list[float]] = {}
    for metric in per_row:
        values.setdefault(metric.metric, []).append(metric.value)
    if together := _conversations(prompts, per_row):
        values[CONVERSATIONS] = together
    return {name: mean(found) for name, found in values.items()}


def _against_references(task: Judge, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> dict[str, Sums]:
    pairs = [(a, p.reference) for p, a in zip(prompts, answers, strict=True) if p.reference is not None]
    return task.measure(["" if a.error else a.text for a, _ in pairs], [r for _, r in pairs]) if pairs else {}


def _order(metrics: Collection[str]) -> list[str]:
    """Accuracy first, agreement last."""
    return sorted(metrics, key=lambda name: (name != ACCURACY, name == AGREEMENT))


def _conversations(prompts: Sequence[Prompt], per_row: Sequence[Metric]) -> list[float]:
    """For each conversation of which several turns are rows, whether all of them are right."""
    of = {p.id: p.conversation_id for p in prompts if p.conversation_id is not None}
    turns: dict[str, list[float]] = {}
    for metric in per_row:
        if metric.metric == ACCURACY and metric.id in of:
            turns.setdefault(of[metric.id], []).append(metric.value)
    return [min(values) for values in turns.values()]


def estimate(metric: Sums, resamples: int) -> Value | None:
    """A metric with its interval; None when it has no value."""
    rows = len(metric.rows_RS)
    point = metric.point() if rows else float("nan")
    return Value(point, interval(metric, resamples), rows) if np.isfinite(point) else None


def _student(deciding: Mapping[str, Sums], by: str | None, name: str, baseline: str, resamples: int) -> Student:
    own = deciding.get(name)
    if own is None:
        return Student(baseline, by, None, None, None)
    teacher, before = deciding.get(TEACHER), deciding.get(baseline)
    return Student(
        baseline,
        by,
        retention=None if teacher is None else estimate(ratio(own, teacher), resamples),
        behind_teacher=None if teacher is None else estimate(difference(own, teacher), resamples),
        gain=None if before is None else estimate(difference(own, before), resamples),
        gap_closed=None if teacher is None or before is None else _gap_closed(own, teacher, before, resamples),
    )


def _gap_closed(own: Sums, teacher: Sums, before: Sums, resamples: int) -> Value | None:
    """A share of a gap that may be none, or the other way round, says nothing: its interval must lie above 0."""
    lead = difference(teacher, before)
    bounds = interval(lead, resamples)
    if bounds is None or bounds.low <= 0:
        return None
    return estimate(ratio(difference(own, before), lead), resamples)


def _notes(
    prompts: Sequence[Prompt], by: str | None, deciding: Mapping[str, Sums], said: Mapping[str, Sequence[Answer]]
) -> list[str]:
    notes = []
    judged = max((len(metric.rows_RS) for metric in deciding.values()), default=0)
    referenced = sum(p.reference is not None for p in prompts)
    if not judged:
        instead = "; agreement with the teacher stands in its place" if TEACHER in said else ""
        notes.append(f"no accuracy: no row has a reference or required facts (set data.reference){instead}")
    elif judged < len(prompts):
        notes.append(f"{by} is over {judged} of {len(prompts)} rows: the others have nothing to judge them by")
    if not referenced and judged:
        notes.append("no metrics against references: no row has one; set data.reference to have them")
    elif by == ACCURACY and referenced < len(prompts):
        notes.append(f"metrics against references are over {referenced} of {len(prompts)} rows, those with one")
    if TEACHER not in said:
        notes.append("no retention and no agreement: the teacher has no weights that could be asked")
    elif judged and not deciding[TEACHER].point():
        none = "got no row right" if by == ACCURACY else f"has a {by} of 0"
        notes.append(f"no retention: the teacher {none}")
    return notes

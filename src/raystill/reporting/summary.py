"""Findings to the content of report.json: plain numbers, intervals in sibling keys, nothing that JSON lacks.

Later versions add keys; SCHEMA rises when one of these changes its meaning.
"""

import collections
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from raystill.metrics.bootstrap import CONFIDENCE
from raystill.metrics.compare import TEACHER, Value
from raystill.metrics.speed import holds, served
from raystill.recipe import Recipe, Teacher
from raystill.reporting.case_study import case_study
from raystill.reporting.findings import Findings, Made, Model, Point, Rolled
from raystill.reporting.gate import gate
from raystill.reporting.judgement import judgement
from raystill.reporting.slices import regressions, slices
from raystill.reporting.suites import suite

SCHEMA = 1
Report = dict[str, Any]

LOAD_KEYS = (
    "concurrency",
    "requests",
    "errors",
    "ttft_s",
    "ttft_p95_s",
    "ttft_p99_s",
    "time_per_output_token_s",
    "time_per_output_token_p95_s",
    "time_per_output_token_p99_s",
    "seconds_per_answer",
    "seconds_per_answer_p95",
    "seconds_per_answer_p99",
    "output_tokens_per_s",
    "answers_per_s",
    "peak_memory_bytes",
    "kv_bytes_per_token",
    "kv_bytes",
    "energy_j",
    "energy_of",
    "hardware",
)


def summary(found: Findings) -> Report:
    """The report. `retention`, `speedup` and `smaller` at the top are the single student's, or the first one's."""
    recipe, comparison = found.recipe, found.comparison
    models = {m.name: _model(m, found) for m in found.models}
    models.setdefault(TEACHER, {"role": TEACHER, "source": teacher_source(recipe), "accuracy": None, "rows": 0})
    students = {m.name: _student(m, found) for m in found.models if m.role == "student"}
    first = next(iter(students), None)
    report: Report = {
        "schema": SCHEMA,
        "recipe": recipe.name,
        "task": recipe.task.kind,
        "made_at": found.made_at,
        "split": recipe.evaluate.split,
        "rows": comparison.rows,
        "confidence": CONFIDENCE,
        "simulated": recipe.teacher.kind == "scripted",
        "student": first,
        "decided_by": None,
        "retention": None,
        "models": models,
        "students": students,
        "notes": [*comparison.notes, *_notes(found)],
        "data": _data(recipe, found.steps),
        "teachers": _teachers(recipe, found.steps),
        "dropped": _dropped(found.steps),
        "training": {name: _training(points) for name, points in found.curves.items()},
        "rounds": {name: [_round(of) for of in rounds] for name, rounds in found.rounds.items()},
        "judge": judgement(found.judgement) if found.judgement else None,
        "suites": {name: suite(of) for name, of in found.suites.items()},
        "cost": _cost(recipe, found.steps),
        "steps": [
            {"step": s.label, "fingerprint": s.fingerprint, "started_at": s.started_at, "elapsed_s": s.elapsed_s}
            for s in found.steps
        ],
        "settings": _settings(recipe),
        "provenance": dict(found.provenance),
    }
    if first:
        shared = ("decided_by", "retention", "retention_interval", "speedup", "smaller")
        report |= {k: v for k, v in students[first].items() if k in shared}
    report["slices"] = {
        name: slices(found.said, name, recipe.evaluate.slices, recipe.evaluate.resamples) for name in students
    }
    report["regressions"] = {name: regressions(found.said, name, s["baseline"]) for name, s in students.items()}
    return report | {"gate": gate(recipe.gate, report), "case_study": case_study(report)}


def teacher_source(recipe: Recipe) -> str:
    """How the recipe names the teacher that it compares with."""
    return source(recipe.teacher)


def source(teacher: Teacher) -> str:
    """How the recipe names a teacher's model."""
    return teacher.model or teacher.recipe or (teacher.endpoint.model if teacher.endpoint else teacher.kind)


def _model(model: Model, found: Findings) -> dict[str, Any]:
    compared = found.comparison.models.get(model.name)
    entry: dict[str, Any] = {"role": model.role, "source": model.source, "accuracy": None}
    metrics = compared.metrics if compared else {}
    for name, value in metrics.items():
        entry |= _value(name, value)
    return entry | {
        "over": {name: value.rows for name, value in metrics.items()},
        "rows": compared.rows if compared else 0,
        "errors": compared.errors if compared else 0,
        "parameters": model.parameters,
        "weights_bytes": model.weights_bytes,
        "load": [{k: getattr(load, k) for k in LOAD_KEYS} for load in model.loads],
        "users": _users(found.recipe, model),
        **_costs(found.recipe, model),
    }


def _student(model: Model, found: Findings) -> dict[str, Any]:
    """A student beside its teacher and its baseline. Ratios are teacher over student, larger is better."""
    compared = found.comparison.students.get(model.name)
    teacher = next((m for m in found.models if m.role == "teacher"), None)
    entry: dict[str, Any] = {"baseline": compared.baseline if compared else None, "retention": None}
    entry["decided_by"] = compared.by if compared else None
    values = {name: getattr(compared, name, None) for name in ("retention", "behind_teacher", "gain", "gap_closed")}
    for name, value in values.items():
        entry |= _value(name, value)
    entry["over"] = {name: value.rows for name, value in values.items() if value}
    return entry | {"speedup": _speedup(teacher, model), "smaller": _smaller(teacher, model)}


def _value(name: str, value: Value | None) -> dict[str, Any]:
    interval = list(value.interval) if value and value.interval else None
    return {name: value.value if value else None, f"{name}_interval": interval}


def _speedup(teacher: Model | None, student: Model) -> list[dict[str, float]]:
    """Per concurrency that both were measured at, on the same kind of machine."""
    before = {(load.concurrency, load.hardware): load for load in (teacher.loads if teacher else [])}
    found = []
    for now in student.loads:
        if then := before.get((now.concurrency, now.hardware)):
            pairs = {
                "ttft_s": (then.ttft_s, now.ttft_s),
                "seconds_per_answer": (then.seconds_per_answer, now.seconds_per_answer),
                "output_tokens_per_s": (now.output_tokens_per_s, then.output_tokens_per_s),
                "answers_per_s": (now.answers_per_s, then.answers_per_s),
            }
            ratios = {name: larger / smaller for name, (larger, smaller) in pairs.items() if smaller}
            found.append({"concurrency": now.concurrency, **ratios})
    return found


def _smaller(teacher: Model | None, student: Model) -> dict[str, float | None]:
    return {
        "parameters": _over(teacher.parameters if teacher else None, student.parameters),
        "weights_bytes": _over(teacher.weights_bytes if teacher else None, student.weights_bytes),
    }


def _over(left: float | None, right: float | None) -> float | None:
    return left / right if left and right else None


def _users(recipe: Recipe, model: Model) -> dict[str, Any] | None:
    """How many users a model serves within the objective, and the least load seen to break it; None without an objective."""
    objective = recipe.evaluate.objective
    if objective is None or not model.loads:
        return None
    most, broken = served(model.loads, objective)
    return {"served": most, "broken_at": broken, "objective": objective.model_dump(exclude_none=True)}


def _costs(recipe: Recipe, model: Model) -> dict[str, float | None]:
    """What 1000 answers and a million of their tokens cost: what an endpoint asked, or machine time at the highest measured
    throughput, with an objective at the highest one within it."""
    objective, hour = recipe.evaluate.objective, recipe.prices.machine_hour
    loads = [load for load in model.loads if objective is None or holds(load, objective)]
    answers, tokens = (
        max((getattr(x, k) for x in loads), default=0.0) for k in ("answers_per_s", "output_tokens_per_s")
    )
    if model.paid_per_answer:
        return {
            "cost_per_1000_answers": model.paid_per_answer * 1000,
            "cost_per_million_tokens": model.paid_per_million,
        }
    return {
        "cost_per_1000_answers": hour / 3600 / answers * 1000 if hour and answers else None,
        "cost_per_million_tokens": hour / 3600 / tokens * 1e6 if hour and tokens else None,
    }


def _cost(recipe: Recipe, steps: Sequence[Made]) -> dict[str, Any]:
    """What the line took. Steps that were reused count as when they were made."""
    elapsed_s = sum(s.elapsed_s or 0.0 for s in steps)
    price = recipe.prices.machine_hour or None
    return {
        "currency": recipe.prices.currency,
        "machine_hour": price,
        "elapsed_s": round(elapsed_s, 3),
        "making": price * elapsed_s / 3600 if price else None,
        "teacher_endpoint": sum(s.counts.get("cost") or 0.0 for s in steps if s.stage != "judge") or None,
    }


ANSWERED = ("rows", "answers", "truncated", "transient", "prompt_tokens", "output_tokens", "cost", "errors")


def _teachers(recipe: Recipe, steps: Sequence[Made]) -> dict[str, dict[str, Any]]:
    """What each teacher answered, where it failed and what it cost."""
    counts = _answered(recipe, steps)
    return {
        name: {"kind": recipe.all_teachers()[name].kind, "source": source(recipe.all_teachers()[name])}
        | {k: of.get(k) for k in ANSWERED}
        for name, of in counts.items()
    }


def _answered(recipe: Recipe, steps: Sequence[Made]) -> dict[str, Mapping[str, Any]]:
    """What generate counted, by teacher; a student's own answers in on-policy rounds are none of a teacher's."""
    counts = {s.label.removeprefix("generate").strip() or TEACHER: s.counts for s in steps if s.stage == "generate"}
    return {name: counts[name] for name in recipe.all_teachers() if name in counts}


def _round(of: Rolled) -> dict[str, Any]:
    """`staleness_steps`: optimizer steps between who wrote a text and who learns from it, at the round's last step."""
    return {
        "answers": of.answers,
        "truncated": _over(of.truncated, of.answers) or 0.0,
        "staleness_steps": of.steps - 1,
        "drift": of.drift,
        "consistent": of.consistent,
        "validation_loss": of.validation_loss,
    }


def _data(recipe: Recipe, steps: Sequence[Made]) -> dict[str, Any]:
    """How many rows came through each step."""
    counts = {s.label: s.counts for s in steps}
    generated = collections.Counter[str]()
    for of in _answered(recipe, steps).values():
        generated.update({k: of.get(k, 0) for k in ("answers", "rows", "output_tokens")})
    return {
        "read": counts.get("prepare", {}).get("read"),
        "prompts": counts.get("prepare", {}).get("rows", {}),
        "answers": generated.get("answers") or generated.get("rows"),
        "output_tokens": generated.get("output_tokens"),
        "examples": counts.get("curate", {}).get("kept", {}),
    }


def _dropped(steps: Sequence[Made]) -> dict[str, dict[str, int]]:
    """Rows by step and reason, most frequent first; a failed generation is counted where it failed."""
    found = {}
    for step in steps:
        reasons: collections.Counter[str] = collections.Counter()
        if step.stage == "curate":
            for by_reason in step.counts.get("dropped", {}).values():
                reasons.update({r: n for r, n in by_reason.items() if not r.startswith("error: ")})
        else:
            reasons.update(step.counts.get("rejected", {}))
            reasons.update(step.counts.get("errors", {}))
        for key, reason in PREPARED.items():
            reasons[reason] += step.counts.get(key, 0)
        if kept := {r: n for r, n in reasons.most_common() if n}:
            found[step.label] = kept
    return found


PREPARED = {
    "duplicates": "the same prompt twice",
    "leaks": "also in a held-out split",
    "beyond_limit": "beyond data.limit",
}


def _training(points: Sequence[Point]) -> dict[str, Any]:
    losses = [p.loss for p in points if p.loss is not None]
    validations = [p.validation_loss for p in points if p.validation_loss is not None]
    return {
        "steps": points[-1].step if points else 0,
        "loss": losses[-1] if losses else None,
        "validation_loss": validations[-1] if validations else None,
        "steps_not_applied": sum(p.loss is None for p in points),
        "resumed_at": [p.step for p in points if p.resumed],
        "tokens_per_s": _median(p.tokens_per_s for p in points),
        "supervised_tokens_per_s": _median(p.supervised_tokens_per_s for p in points),
        "mfu": _median(p.mfu for p in points),
        "memory_bytes": max((p.memory_bytes for p in points if p.memory_bytes), default=None),
    }


def _median(values: Iterable[float | None]) -> float | None:
    noted = [v for v in values if v is not None]
    return statistics.median(noted) if noted else None


def _settings(recipe: Recipe) -> dict[str, Any]:
    """The recipe's settings that decide answers and training, per student."""
    return {
        "sampling": recipe.teacher.sampling.model_dump(),
        "train": {name: recipe.train_for(s).model_dump() for name, s in recipe.all_students().items()},
        "filters": list(recipe.curate.filters),
        "evaluate": recipe.evaluate.identity(),
    }


def _notes(found: Findings) -> list[str]:
    notes = []
    if not found.recipe.prices.machine_hour:
        notes.append("no cost of machine time: set prices.machine_hour to have it")
    if (loads := [load for m in found.models for load in m.loads]) and all(load.energy_j is None for load in loads):
        notes.append("no energy: the machine tells neither its processors' (RAPL) nor its GPUs' (NVML)")
    if len({load.hardware for m in found.models for load in m.loads}) > 1:
        notes.append("models were measured on different kinds of machine; speeds of two kinds are never compared")
    if behind_a_url := found.recipe.teacher.kind == "endpoint":
        notes.append("no size and no speed of the teacher: it answers behind a URL, and its time is not this machine's")
    if unknown := [m.name for m in found.models if m.parameters is None and not (behind_a_url and m.role == TEACHER)]:
        notes.append(f"no size of {', '.join(unknown)}: the weights are no safetensors files that could be looked into")
    for name, rounds in found.rounds.items():
        if rounds and (share := rounds[-1].consistent) < 1:
            notes.append(
                f"the teacher that scores wrote only {100 * share:.0f}% of what {name} learnt first: its on-policy rounds keep "
                "a bias towards the others"
            )
    return notes


def finite(value: Any) -> Any:
    """The same without NaN and infinities, which JSON lacks: None stands in their place."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    return value

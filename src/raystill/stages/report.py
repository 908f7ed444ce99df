"""report: gathers what the line made and writes report.json, report.html and a model card per student. Always made anew."""

import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Protocol

from raystill import models, storage, tasks
from raystill.artifacts import ADAPTER, Artifact, Checkpoint, Table
from raystill.metrics.compare import Comparison, compare
from raystill.provenance import provenance
from raystill.recipe import Cut, Recipe
from raystill.records import Answer, Load, Prompt
from raystill.reporting.card import card
from raystill.reporting.findings import Findings, Made, Model, Point, Role, Rolled, Said
from raystill.reporting.page import page
from raystill.reporting.summary import finite, summary, teacher_source


class Round(Protocol):
    """One on-policy round's artifacts."""

    @property
    def writer(self) -> Checkpoint: ...
    @property
    def rollouts(self) -> Table: ...
    @property
    def examples(self) -> Table: ...
    @property
    def targets(self) -> Table: ...
    @property
    def learner(self) -> Checkpoint: ...


class Line(Protocol):
    """What the pipeline hands over: artifacts, and models, answers and loads by their names in the report."""

    @property
    def prompts(self) -> Table: ...
    @property
    def generations(self) -> Mapping[str, Table]: ...
    @property
    def examples(self) -> Table: ...
    @property
    def targets(self) -> Table | None: ...
    @property
    def models(self) -> Mapping[str, Checkpoint]: ...
    @property
    def answers(self) -> Mapping[str, Table]: ...
    @property
    def loads(self) -> Mapping[str, Table]: ...
    @property
    def rounds(self) -> Mapping[str, Sequence[Round]]: ...


def report(recipe: Recipe, made: Line) -> str:
    """Write `<root>/reports/<name>/` and return that folder."""
    found = gather(recipe, made)
    made_report = finite(summary(found))
    folder = storage.join(recipe.root, "reports", recipe.name)
    text = json.dumps(made_report, indent=2, ensure_ascii=False, allow_nan=False)
    storage.write(storage.join(folder, "report.json"), text.encode())
    storage.write(storage.join(folder, "report.html"), page(made_report, found).encode())
    for name in recipe.all_students():
        file = "MODEL_CARD.md" if recipe.student else f"MODEL_CARD-{name}.md"
        storage.write(storage.join(folder, file), card(made_report, found, name).encode())
    return folder


def gather(recipe: Recipe, made: Line) -> Findings:
    """Everything a report is made from, read from the artifacts."""
    answers = {name: list(table.rows(Answer)) for name, table in made.answers.items()}
    asked = {a.id for rows in answers.values() for a in rows}
    prompts = [p for p in made.prompts.rows(Prompt, recipe.evaluate.split) if p.id in asked]
    comparison = _compared(recipe, made, prompts, answers)
    return Findings(
        recipe=recipe,
        made_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        comparison=comparison,
        models=[
            *_behind_a_url(recipe, made),
            *(_model(recipe, name, model, made.loads.get(name)) for name, model in made.models.items()),
        ],
        steps=list(_steps(made)),
        curves=_curves(recipe, made),
        rounds={name: [_rolled(of) for of in rounds] for name, rounds in made.rounds.items()},
        said=_said(prompts, answers, comparison),
        provenance=provenance(),
    )


def _compared(recipe: Recipe, made: Line, prompts: list[Prompt], answers: Mapping[str, list[Answer]]) -> Comparison:
    references = set(made.prompts.column("reference", "train", "validation")) - {None}
    task = tasks.load(recipe.task, references)
    baselines = {n: "baseline" if recipe.student else f"{n}-baseline" for n in recipe.all_students()}
    return compare(task, recipe.task.kind, prompts, answers, baselines, recipe.evaluate.resamples)


def _model(recipe: Recipe, name: str, model: Checkpoint, loads: Table | None) -> Model:
    role: Role = "teacher" if name == "teacher" else "student" if name in recipe.all_students() else "baseline"
    return Model(
        name=name,
        role=role,
        source=teacher_source(recipe) if role == "teacher" else _start(recipe, name),
        parameters=model.facts.get("parameters") or models.parameters(model.url),
        weights_bytes=_weights_bytes(model),
        loads=list(loads.rows(Load)) if loads else [],
    )


def _behind_a_url(recipe: Recipe, made: Line) -> Iterator[Model]:
    """A teacher that was asked and has no weights here."""
    if "teacher" in made.answers and "teacher" not in made.models:
        counts = made.answers["teacher"].counts
        answered = counts["rows"] - sum(counts["errors"].values())
        paid = counts["cost"] / answered if answered and counts.get("cost") else None
        yield Model("teacher", "teacher", teacher_source(recipe), None, None, [], paid)


def _start(recipe: Recipe, name: str) -> str:
    """How the recipe names what a student starts from."""
    student = recipe.all_students()["student" if recipe.student else name.removesuffix("-baseline")]
    if isinstance(student.init, Cut):
        return f"{len(student.init.layers)} layers of {student.init.from_}"
    return student.model or ""


def _weights_bytes(model: Checkpoint) -> int | None:
    """An adapter beside a model is merged into its weights, and no part of their size."""
    if model.manifest:
        weights = (f for f in model.manifest.files if f.path.endswith(".safetensors") and f"/{ADAPTER}/" not in f.path)
        return sum(f.bytes for f in weights) or None
    folder = Path(model.url)
    return sum(p.stat().st_size for p in folder.glob("*.safetensors")) or None if folder.is_dir() else None


def _steps(made: Line) -> Iterator[Made]:
    """Finished steps in the line's order."""
    answers = {"generate" if n == "teacher" else f"generate {n}": table for n, table in made.generations.items()}
    named: dict[str, Artifact] = {"prepare": made.prompts, **answers, "curate": made.examples}
    named |= {"score": made.targets} if made.targets else {}
    named |= {f"train {n}" if n not in ("teacher", "baseline") else n: m for n, m in made.models.items()}
    named |= {f"answer {n}": a for n, a in made.answers.items()} | {f"measure {n}": a for n, a in made.loads.items()}
    for name, rounds in made.rounds.items():
        for number, of in enumerate(rounds, 1):
            of_round = {"generate": of.rollouts, "curate": of.examples, "score": of.targets, "train": of.learner}
            named |= {f"{stage} {name} round {number}": artifact for stage, artifact in of_round.items()}
    for label, artifact in named.items():
        if manifest := artifact.manifest:
            about = manifest.provenance
            yield Made(
                label=label,
                stage=manifest.stage,
                fingerprint=manifest.fingerprint,
                started_at=about.get("started_at"),
                elapsed_s=about.get("elapsed_s"),
                counts=manifest.counts,
            )


def _rolled(of: Round) -> Rolled:
    wrote, learnt = of.rollouts.counts, of.learner
    return Rolled(
        answers=wrote["answers"],
        truncated=wrote["truncated"],
        steps=learnt.counts["steps"],
        drift=learnt.facts["drift"],
        consistent=of.targets.facts["consistent"],
        validation_loss=learnt.facts["validation_loss"],
    )


def _curves(recipe: Recipe, made: Line) -> dict[str, list[Point]]:
    """Every training of each student: one, or one after another where it learnt on in rounds."""
    found: dict[str, list[Point]] = {}
    for name in recipe.all_students():
        if not (rounds := made.rounds.get(name, [])):
            found[name] = _curve(made.models[name])
            continue
        found[f"{name} before its rounds"] = _curve(rounds[0].writer)
        found |= {f"{name} in round {number}": _curve(of.learner) for number, of in enumerate(rounds, 1)}
    return found


def _curve(model: Checkpoint) -> list[Point]:
    if model.manifest is None:
        return []
    path = next((f.path for f in model.manifest.files if f.path.endswith("curve.jsonl")), None)
    rows = [json.loads(line) for line in model.read(path).decode().splitlines()] if path else []
    noted = [f.name for f in fields(Point)]
    return [Point(**{k: r[k] for k in noted if k in r} | {"loss": r["loss"] if r["applied"] else None}) for r in rows]


def _said(prompts: list[Prompt], answers: Mapping[str, list[Answer]], comparison: Comparison) -> list[Said]:
    texts = {(name, a.id): a.text for name, rows in answers.items() for a in rows}
    right = {(m.model, m.id): m.value >= 1 for m in comparison.per_row if m.metric == "accuracy"}
    return [
        Said(
            id=p.id,
            prompt="\n".join(m.content for m in p.messages if m.role != "system"),
            reference=p.reference,
            answers={name: texts[name, p.id] for name in answers if (name, p.id) in texts},
            right={name: right.get((name, p.id)) for name in answers},
        )
        for p in prompts
    ]

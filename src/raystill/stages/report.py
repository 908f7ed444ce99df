"""report: gathers what the line made and writes report.json, report.html and a model card per student. Always made anew."""

import datetime
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol

from raystill import models, storage, tasks
from raystill.artifacts import ADAPTER, Artifact, Checkpoint, Table, decode, encode
from raystill.errors import DataError, RecipeError
from raystill.metrics.compare import Comparison, compare
from raystill.metrics.judged import Vote, judged
from raystill.provenance import provenance
from raystill.recipe import Cut, Judge, Recipe
from raystill.records import Answer, Load, Metric, Prompt, SuiteScore, Verdict
from raystill.reporting import judgement, plain
from raystill.reporting.card import card
from raystill.reporting.findings import Findings, Judgement, Made, Model, Point, Role, Rolled, Said
from raystill.reporting.junit import junit
from raystill.reporting.page import page
from raystill.reporting.summary import finite, source, summary, teacher_source
from raystill.serving import votes

ROWS = "rows.parquet"
"""Values of single answers, in a report's folder."""


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


class Suited(Protocol):
    """A suite's prompts, and by model its answers, or its scores where lm-eval asked."""

    @property
    def prompts(self) -> Table | None: ...
    @property
    def made(self) -> Mapping[str, Table]: ...


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
    def suites(self) -> Mapping[str, Suited]: ...
    @property
    def verdicts(self) -> Table | None: ...
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
    storage.write(storage.join(folder, ROWS), encode(Metric, found.comparison.per_row))
    storage.write(storage.join(folder, "report.csv"), plain.as_csv(made_report).encode())
    storage.write(storage.join(folder, "report.md"), plain.as_markdown(made_report).encode())
    if made_report["gate"]:
        storage.write(storage.join(folder, "gate.xml"), junit(recipe.name, made_report["gate"]).encode())
    if made_report["judge"]:
        storage.write(storage.join(folder, "judge.md"), judgement.table(made_report["judge"]).encode())
    for name in recipe.all_students():
        file = "MODEL_CARD.md" if recipe.student else f"MODEL_CARD-{name}.md"
        storage.write(storage.join(folder, file), card(made_report, found, name).encode())
    return folder


def read(recipe: Recipe) -> tuple[dict[str, Any], list[Metric]]:
    """The last report of a recipe, and its values of single answers. Raises RecipeError when there is none."""
    folder = storage.join(recipe.root, "reports", recipe.name)
    if not storage.exists(storage.join(folder, ROWS)):
        raise RecipeError(f"'{recipe.name}' has no report under {recipe.root}; make it: raystill report RECIPE")
    made: dict[str, Any] = json.loads(storage.read(storage.join(folder, "report.json")))
    return made, list(decode(Metric, storage.read(storage.join(folder, ROWS)), folder))


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
        judgement=_judgement(recipe, made, comparison),
        suites={name: _suite(recipe, made, suited) for name, suited in made.suites.items()},
    )


def _judgement(recipe: Recipe, made: Line, comparison: Comparison) -> Judgement | None:
    config, verdicts = recipe.evaluate.judge, made.verdicts
    if config is None or verdicts is None:
        return None
    teachers, name = recipe.all_teachers(), config.model or ""
    by = (
        config.endpoint.model
        if config.endpoint
        else source(teachers[name])
        if name in teachers
        else _start(recipe, name)
    )
    compared = "teacher" if name == next(iter(teachers)) else name
    lines = judged(list(verdicts.rows(Verdict)), comparison.per_row, _votes(recipe, config), recipe.evaluate.resamples)
    return Judgement(by, compared if compared in made.answers else None, config.mode, lines, verdicts.counts)


def _votes(recipe: Recipe, judge: Judge) -> list[Vote]:
    """People's votes on answers to held-out rows, by pairs of models. Raises DataError for what is no vote."""
    url = judge.votes or votes.place(recipe.root, recipe.name)
    try:
        cast = votes.Votes(url).all()
    except (TypeError, ValueError):
        raise DataError(f"{url} holds files that are no votes; give the folder that the playground wrote") from None
    return [
        Vote(vote.row, left, right, "tie" if vote.preferred is None else "left" if vote.preferred == left else "right")
        for vote in cast
        for left, right in itertools.combinations(vote.answers, 2)
        if vote.row is not None and vote.preferred in (None, left, right)
    ]


def _suite(recipe: Recipe, made: Line, suited: Suited) -> Comparison | list[SuiteScore]:
    if suited.prompts is None:
        return [score for table in suited.made.values() for score in table.rows(SuiteScore)]
    return _compared(
        recipe, made, list(suited.prompts.rows(Prompt)), {n: list(t.rows(Answer)) for n, t in suited.made.items()}
    )


def metrics(recipe: Recipe, made: Line, name: str) -> tuple[dict[str, float], list[str]]:
    """One model's metrics by name, with its seconds per answer at the first load, and why others are absent."""
    answers = {name: list(made.answers[name].rows(Answer))}
    comparison = _compared(recipe, made, list(made.prompts.rows(Prompt, recipe.evaluate.split)), answers)
    first = next(made.loads[name].rows(Load))
    found = {key: value.value for key, value in comparison.models[name].metrics.items()}
    return found | {"seconds_per_answer": first.seconds_per_answer}, comparison.notes


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
        paid, tokens = counts.get("cost"), counts["output_tokens"]
        each = paid / answered if answered and paid else None
        million = paid / tokens * 1e6 if tokens and paid else None
        yield Model("teacher", "teacher", teacher_source(recipe), None, None, [], each, million)


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
    for name, suited in made.suites.items():
        named |= {f"{model} on {name}": table for model, table in suited.made.items()}
    named |= {"judge": made.verdicts} if made.verdicts else {}
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
            columns=json.loads(p.columns),
        )
        for p in prompts
    ]

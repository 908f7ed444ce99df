"""tune: trials of a student's training with other values, and the best of them as a recipe of its own.

It walks the line up to the examples, so a search asks the teacher nothing that a run would not. A slice of the examples is
scored once per temperature, with the largest k; every trial trains on that.
"""

import json
import os
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from raystill import losses, pipeline, recipe_file, session, storage
from raystill.artifacts import Artifact, Checkpoint, Table
from raystill.context import Context, Progress
from raystill.errors import RecipeError
from raystill.meter import metered
from raystill.recipe import NAME, Recipe
from raystill.recipe_file import Located
from raystill.reporting.search import Trial, best, named, page
from raystill.session import ray_session
from raystill.stages import slice as slicing
from raystill.stages import train
from raystill.stages import tune as stage
from raystill.steps import Do, Runner, Step

A = TypeVar("A", bound=Artifact)


@dataclass(frozen=True)
class Tuned:
    """What came of a search: the best trial, the recipe with its values and the page about all of them."""

    best: Trial
    recipe: str
    page: str


def tune(
    path: str, out: str | None, progress: Progress, stopping: threading.Event, compute: str | None = None
) -> Tuned:
    """Search, then write the best values as a recipe. Raises RecipeError when that would replace another file."""
    located = recipe_file.load(path, compute)
    recipe = located.recipe
    if recipe.tune is None:
        raise RecipeError(
            f"{path} does not say what to search; add e.g. tune: {{learning_rate: {{min: 1e-5, max: 1e-4}}, trials: 16}}"
        )
    written = out or str(Path(path).with_name(f"{recipe.name}-tuned.yaml"))
    if Path(written).exists():
        raise RecipeError(
            f"{written} exists and is not replaced; move it away, or type: raystill tune {path} --out FILE"
        )
    storage.probe(recipe.root)
    with (
        ray_session(recipe.compute) as ensure_ray,
        tempfile.TemporaryDirectory(prefix="raystill-") as scratch,
        metered(recipe, stopping) as meter,
    ):
        found = search(located, Runner(recipe, progress, stopping, ensure_ray, Path(scratch), meter=meter))
    trials = [Trial(**json.loads(line)) for line in found.read(stage.TRIALS).decode().splitlines()]
    shown = storage.join(recipe.root, "reports", recipe.name, "tune.html")
    storage.write(shown, page(recipe.name, trials, found.facts["search"]).encode())
    Path(written).write_text(as_recipe(located, best(trials), len(trials)), encoding="utf-8")
    return Tuned(best(trials), written, shown)


def search(located: Located, do: Do) -> Artifact:
    """The line of a search."""
    recipe, config = located.recipe, located.recipe.tune
    assert config is not None
    name = config.student or next(iter(recipe.all_students()))
    made = pipeline.taught(recipe, do)
    teacher = made.models.get("teacher")
    student = recipe.all_students()[name]
    start = pipeline.untrained(recipe, student, teacher, do)
    examples = do(sliced(config.rows, made.examples))
    targets: dict[float, Table] = {}
    base = recipe.train_for(student)
    beside = pipeline.beside_of(recipe.teacher, teacher) if base.teacher == "live" else None
    if recipe.score and base.loss.kind != losses.TEXT and not beside:
        for temperature in config.temperature or [recipe.score.temperature]:
            k = max(config.k or [recipe.score.k])
            wide = recipe.score.model_copy(update={"temperature": temperature, "k": k})
            step = pipeline.scored(recipe, wide, made.weights, examples)
            targets[temperature] = do(replace(step, label=f"score at temperature {temperature:g}"))
    return do(searched(located, name, examples, targets, beside, start))


def sliced(rows: int, examples: Table) -> Step[Table]:
    """The examples of a trial."""
    return Step(
        label="slice",
        stage="slice",
        version=slicing.VERSION,
        decides={"rows": rows},
        inputs={"examples": examples},
        kind=Table,
        make=lambda context: slicing.slice_(rows, examples, context),
    )


def searched(
    located: Located,
    name: str,
    examples: Table,
    targets: Mapping[float, Table],
    beside: train.Live | None,
    start: Checkpoint,
) -> Step[Artifact]:
    """All trials."""
    recipe, config = located.recipe, located.recipe.tune
    assert config is not None
    student = recipe.all_students()[name]
    base = recipe.train_for(student)
    decides = {"tune": config.model_dump(mode="json"), "train": base.identity(), "system": student.system}
    inputs = {"examples": examples, "start": start, "teacher": beside.model if beside else None}
    return Step(
        label="tune",
        stage="tune",
        version=stage.VERSION,
        decides=decides | ({"view": recipe.teacher.view()} if beside else {}),
        inputs=inputs | {f"targets {temperature:g}": table for temperature, table in targets.items()},
        kind=Artifact,
        make=lambda context: stage.tune(
            config, base.validations, at_once(recipe), trial(located, name, examples, targets, beside, start), context
        ),
        ray=True,
    )


def trial(
    located: Located,
    name: str,
    examples: Table,
    targets: Mapping[float, Table],
    beside: train.Live | None,
    start: Checkpoint,
) -> stage.Train:
    """What trains one trial, wherever Ray Tune runs it: all paths in it are absolute."""
    values, compute = located.values, located.recipe.compute
    examples, start = _absolute(examples), _absolute(start)
    targets = {temperature: _absolute(table) for temperature, table in targets.items()}
    live = replace(beside, model=_absolute(beside.model)) if beside else None

    def train_with(found: dict[str, Any], folder: str, report: Callable[[float], None]) -> None:
        recipe = recipe_file.of(recipe_file.chosen(values, name, found))
        student = recipe.all_students()[name]
        table = targets[recipe.score.temperature] if targets and recipe.score else None
        k = recipe.score.k if recipe.score and recipe.score.support == "top_k" else None
        # Who falls behind is stopped by the search.
        config = recipe.train_for(student).model_copy(update={"early_stopping": None})
        with tempfile.TemporaryDirectory() as scratch:
            context = Context(folder, compute, Silent(), recipe.max_error_rate, Path(scratch))
            train.train(
                config, student.system, examples, table, start, [Reporter(report)], context,
                beside=live, watch_text=True, k=k,
            )  # fmt: skip

    return train_with


class Silent:
    """The progress of one trial among many."""

    def start(self, stage: str, total: int | None, unit: str) -> None:
        """A trial begins."""

    def advance(self, done: int = 1, **scalars: float) -> None:
        """A step is done."""

    def say(self, text: str) -> None:
        """Nobody listens."""


@dataclass(frozen=True)
class Reporter:
    """A tracker that hands on the text loss of each validation."""

    report: Callable[[float], None]

    def log(self, step: int, scalars: dict[str, float]) -> None:
        """Note scalars of a step."""
        if "text_loss" in scalars:
            self.report(scalars["text_loss"])


def at_once(recipe: Recipe) -> int:
    """Trials that fit the cluster beside each other, each with a CPU of its own beside its workers'.

    Raises ResourceError when not even one does.
    """
    import ray

    (workers, _), cpus, gpu = train.layout(recipe.compute.train)
    session.need("a trial of tune", workers * cpus + 1, workers if gpu else 0)
    if gpu:
        return max(1, int(ray.cluster_resources()["GPU"]) // workers)
    return max(1, (os.cpu_count() or 1) * len(ray.nodes()) // (workers * cpus))


def as_recipe(located: Located, winner: Trial, trials: int) -> str:
    """The recipe with the best values, under a name of its own."""
    recipe = located.recipe
    assert recipe.tune is not None
    name = recipe.tune.student or next(iter(recipe.all_students()))
    values = recipe_file.chosen(located.values, name, winner.values)
    values["name"] = f"{recipe.name[:34].rstrip('-')}-tuned"
    assert NAME.fullmatch(values["name"])
    head = (
        f"# {located.path} with the best of {trials} trials of `raystill tune`: {named(winner.values)};\n"
        f"# cross-entropy of the validation text {winner.text_loss[-1]:.4g}.\n"
    )
    return head + yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)


def _absolute(artifact: A) -> A:
    if storage.is_s3(artifact.url) or not Path(artifact.url).exists():
        return artifact
    return replace(artifact, url=str(Path(artifact.url).resolve()))

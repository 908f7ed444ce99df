"""plan: what a run would do, in under a second, offline; no torch, no ray.

It walks the same line as a run and names each step: its fingerprint, whether it is done, partly done or to do, and what
stands in the way. What cannot be read offline (s3://, hub ids not seen before) is `unresolved`, no error.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import ValidationError

from raystill import artifacts, memory, models, origins, pipeline, placement, recipe_file, shapes, storage
from raystill.artifacts import Artifact
from raystill.checks import check
from raystill.errors import Problem, RaystillError
from raystill.models import UNRESOLVED
from raystill.recipe import Block, Recipe, Student
from raystill.stages.generate import needs_ray
from raystill.steps import Step
from raystill.teachers import paid
from raystill.teachers.kept import FOLDER
from raystill.training import footprint
from raystill.training.advice import advice
from raystill.training.footprint import Footprint

A = TypeVar("A", bound=Artifact)


@dataclass(frozen=True)
class Planned:
    """One step as plan shows it. `state` is done, partial, to do or unresolved."""

    label: str
    fingerprint: str
    state: str
    note: str
    url: str


@dataclass(frozen=True)
class Plan:
    """All steps of a recipe in order, and every mistake found."""

    recipe: Recipe | None
    steps: list[Planned]
    problems: list[Problem]
    needs: list[str] = field(default_factory=list)
    """What a teacher needs of the machines, a line each: its replicas with GPUs, and beside a student that it trains live."""
    learners: list[str] = field(default_factory=list)
    """What each student is, and what training it takes."""
    warnings: list[str] = field(default_factory=list)
    """What is possible and rarely wanted, a line each."""


@dataclass
class Planner:
    """Walks the line and makes nothing."""

    root: str
    offline: bool = True
    machines_usd: float = 0.0
    retry_rejected: bool = False
    steps: list[Planned] = field(default_factory=list)

    def done(self, step: Step[Any]) -> bool:
        """Whether the step's artifact is there; unknown counts as no."""
        return self._state(step)[0] == "done"

    def __call__(self, step: Step[A]) -> A:
        """Name the step; the artifact it stands for has a manifest only where it is done."""
        state, note = self._state(step)
        url = step.url(self.root)
        planned = Planned(step.label, step.fingerprint, state, note, url)
        if planned not in self.steps:
            self.steps.append(planned)
        if state == "done":
            return artifacts.load(step.kind, url) or step.kind(url, step.fingerprint)
        return step.kind(url, step.fingerprint)

    def _state(self, step: Step[Any]) -> tuple[str, str]:
        url = step.url(self.root)
        if step.fingerprint == UNRESOLVED or storage.is_s3(url):
            return UNRESOLVED, "known when the run can read its inputs"
        if storage.exists(storage.join(url, artifacts.MANIFEST)):
            return "done", "reused"
        if step.stage in ("answer", "judge"):
            kept = storage.entries(storage.join(url, paid.ASKED, FOLDER))
            return ("partial", "some answers are kept") if kept else ("to do", "")
        if units := [e for e in storage.entries(url) if e.url.endswith(".parquet")]:
            prompts = step.inputs.get("prompts")
            total = len(prompts.parts("train", "validation")) if isinstance(prompts, artifacts.Table) else 0
            return "partial", f"{len(units)} of {total or '?'} units are kept"
        return "to do", ""


def plan(path: str, compute: str | None = None) -> Plan:
    """The plan of a recipe file. Mistakes are returned, not raised, all at once."""
    try:
        located = recipe_file.load(path, compute)
    except recipe_file.RecipeProblems as e:
        return Plan(None, [], e.problems)
    except RaystillError as e:
        return Plan(None, [], [Problem(path, str(e), "see: raystill init --help")])
    problems = check(located)
    planner = Planner(located.recipe.root)
    try:
        pipeline.compare(located.recipe, pipeline.learn(located.recipe, planner), planner)
    except (RaystillError, ValidationError) as e:
        if not problems:
            problems = [Problem(located.where(), str(e), f"mend it and run: raystill plan {path}")]
    if problems:
        return Plan(located.recipe, planner.steps, problems)
    recipe = located.recipe
    needed = [*needs(recipe), *beside(recipe)]
    return Plan(recipe, planner.steps, [], needed, list(learners(recipe)), list(warnings(recipe)))


def warnings(recipe: Recipe) -> Iterator[str]:
    """Training settings of each student outside the range of its family."""
    for name, student in recipe.all_students().items():
        known = student.model if student.init == "pretrained" else None
        size, config = (models.parameters(known), models.config(known)) if known else (None, None)
        if size is None and known and (shape := shapes.of(known)):
            size = shape.parameters
        for line in advice(recipe.train_for(student), size, config):
            yield f"{name}: {line}"


def needs(recipe: Recipe) -> Iterator[str]:
    """The node shape and placement group of every engine that takes several GPUs, and what each GPU must hold."""
    for name, teacher in recipe.all_teachers().items():
        if not needs_ray(teacher):
            continue
        asked, size = placement.asked(teacher.kind, teacher.engine, recipe.compute.generate), memory.known_gpu_bytes()
        shape = placement.shape(asked, recipe.compute.generate, on_gpu=True)
        if shape.gpus < (1 if size else 2):
            continue
        yield f"{name}: each replica needs one node of {shape}"
        if teacher.kind != "vllm":
            continue
        found = memory.need(teacher.model or "", asked or {})
        holds = f"each GPU must hold {found}" if found else "how much its weights take is seen when they are there"
        room = f"this machine's GPUs have {size / memory.GB:.1f} GB" if size else "the GPUs' memory is not known here"
        yield f"{name}: {holds}; {room}"


def beside(recipe: Recipe) -> Iterator[str]:
    """What a live teacher costs each train worker."""
    for name, student in recipe.all_students().items():
        train = recipe.train_for(student)
        if train.teacher != "live":
            continue
        found = memory.need(recipe.teacher.model or "", {"max_model_len": -1})
        weights = str(found) if found else "its weights, whose size is seen when they are there"
        yield f"{name}: each train worker holds the whole teacher ({weights}) and runs it once per example and epoch"
        if train.loss.attention:
            said = "its own layers" if train.loss.attention.map == "uniform" else "the mapped layers"
            yield f"{name}: attention of {said} is computed twice on both sides, for answers' tokens and every head"


def learners(recipe: Recipe) -> Iterator[str]:
    """Every student whose config is at hand or known, and the memory that training it takes."""
    compute = recipe.compute.train
    room = footprint.room(compute)
    for name, student in recipe.all_students().items():
        shape = origins.of_student(student, recipe.teacher).shape
        if shape is None:
            continue
        yield f"{name}: {shape}"
        workers, gpu = (room.workers, room.gpu) if room else (footprint.least(compute) or 1, True)
        if takes := held(recipe, student, workers, gpu):
            has = f"of {room.each / memory.GB:.1f} GB here" if room else "of GPUs whose memory is not known here"
            yield f"{name}: training takes each of {workers} {'GPUs' if gpu else 'workers'} about {takes}; {has}"
            if room and takes.total > room.each:
                yield f"{name}: that does not fit; {footprint.advice(takes, compute)}"


def held(recipe: Recipe, student: Student, workers: int, gpu: bool) -> Footprint | None:
    """What training a student takes each of so many workers; None where its or its live teacher's size is not known."""
    train, shape = recipe.train_for(student), origins.of_student(student, recipe.teacher).shape
    teacher = origins.of_teacher(recipe.teacher).shape if train.teacher == "live" else None
    if shape is None or (train.teacher == "live" and teacher is None):
        return None
    return footprint.footprint(shape, train, recipe.compute.train, workers, gpu, teacher)


def resolved(block: Block, prefix: str = "") -> list[tuple[str, Any, str]]:
    """Every key of a recipe with its value and why it has it: (key, value, reason)."""
    rows: list[tuple[str, Any, str]] = []
    for name, info in type(block).model_fields.items():
        key, value = prefix + (info.alias or name), getattr(block, name)
        if isinstance(value, Block):
            rows += resolved(value, f"{key}.")
            continue
        if isinstance(value, dict) and value and all(isinstance(v, Block) for v in value.values()):
            for inner, item in value.items():
                rows += resolved(item, f"{key}.{inner}.")
            continue
        extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        rows.append((key, value, "from the recipe" if name in block.model_fields_set else str(extra.get("why", ""))))
    return rows

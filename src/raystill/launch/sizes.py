"""How many pods of how many GPUs each stage takes. Arithmetic only.

A pod holds one engine, or as many of its pipeline stages as a node has GPUs for; pods of one engine are one replica of
several hosts, so that Kubernetes starts and loses them together.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from raystill import pipeline, placement
from raystill.errors import RecipeError
from raystill.launch.gpus import KINDS, Node
from raystill.recipe import Compute, Recipe
from raystill.stages.generate import needs_ray

PLAIN_CPUS = 8
"""CPUs of a worker pod without GPUs."""


@dataclass(frozen=True)
class Group:
    """Equal pods of a stage: `hosts` pods are a replica, of which there are `least` to `most`."""

    name: str
    gpus: int
    hosts: int = 1
    least: int = 1
    most: int = 1

    @property
    def elastic(self) -> bool:
        """Whether Ray's autoscaler changes their number."""
        return self.least < self.most


@dataclass(frozen=True)
class Stage:
    """One stage with a cluster of its own."""

    name: str
    groups: tuple[Group, ...]


def stages(recipe: Recipe) -> list[Stage]:
    """The stages that need a cluster, in the line's order. Raises RecipeError for a model that no nodes of this type hold."""
    return [Stage(name, tuple(groups)) for name, groups in _groups(recipe) if groups]


def served(recipe: Recipe) -> list[Group]:
    """Worker pods of the served endpoint: a group per student, which grows as its engines do."""
    pods, hosts = _split(_engine(recipe.serve.engine), node_of(recipe), "serve.engine")
    bounds = {name: recipe.serve.replicas_of(name) for name in recipe.all_students()}
    return [Group(name, pods, hosts, each.min_replicas, each.max_replicas) for name, each in bounds.items()]


def fitted(recipe: Recipe) -> Compute:
    """Where stages run, for the stages themselves: a head's own CPUs say nothing about the pods that engines run in."""
    node, wide = node_of(recipe), recipe.compute.generate
    pods = [group for stage in stages(recipe) if stage.name in ("generate", "score") for group in stage.groups]
    # Each further GPU of an engine over several pods takes a CPU of its own.
    room = min((cpus(group, node) - max(1, group.gpus) for group in pods), default=1)
    engines = wide.model_copy(update={"cpus": wide.cpus or room})
    train = recipe.compute.train
    told = {"workers": train.workers or workers(recipe), "cpus": train.cpus or node.cpus_per_gpu - 1}
    return recipe.compute.model_copy(update={"generate": engines, "train": train.model_copy(update=told)})


def node_of(recipe: Recipe) -> Node:
    """The GPU nodes of this recipe. Raises RecipeError for an unknown type."""
    kind = recipe.compute.kubernetes.gpu
    if kind not in KINDS:
        raise RecipeError(f"compute.kubernetes.gpu '{kind}' is not known; take one of {', '.join(KINDS)}")
    return KINDS[kind]


def cpus(group: Group, node: Node) -> int:
    """CPUs of one pod."""
    return group.gpus * node.cpus_per_gpu or PLAIN_CPUS


def _groups(recipe: Recipe) -> Iterator[tuple[str, list[Group]]]:
    yield "generate", _teachers(recipe)
    yield "score", _scorer(recipe)
    yield "train", [_trainers(recipe)]
    yield "evaluate", _compared(recipe)


def _teachers(recipe: Recipe) -> list[Group]:
    """A group per size of engine: teachers answer one after another, so equal ones share theirs."""
    wide = recipe.compute.generate
    least, most = placement.replicas(wide)
    sizes: dict[tuple[int, int], None] = {}
    for name, teacher in recipe.all_teachers().items():
        if needs_ray(teacher):
            asked = placement.asked(teacher.kind, teacher.engine, wide)
            sizes[_pods(recipe, asked, f"teacher {name}")] = None
    return [Group(f"teacher{i or ''}", pods, hosts, least, most) for i, (pods, hosts) in enumerate(sizes)]


def _scorer(recipe: Recipe) -> list[Group]:
    if recipe.score is None:
        return []
    wide = recipe.compute.generate
    least, most = placement.replicas(wide)
    pods, hosts = _pods(recipe, placement.asked(recipe.score.kind, recipe.teacher.engine, wide), "score's teacher")
    return [Group("teacher", pods, hosts, least, most)]


def _trainers(recipe: Recipe) -> Group:
    """The fewest equal pods that hold one GPU per worker; all of them, where fewer would do to go on."""
    node = node_of(recipe)
    count = workers(recipe)
    each = next(n for n in range(min(node.gpus, count), 0, -1) if count % n == 0)
    return Group("trainer", each, 1, count // each, count // each)


def workers(recipe: Recipe) -> int:
    """Training workers: as the recipe says, else a node's GPUs, and never more than a step has examples."""
    steps = [recipe.train_for(student).batch_size for student in recipe.all_students().values()]
    return recipe.compute.train.most or min(node_of(recipe).gpus, *steps)


def _compared(recipe: Recipe) -> list[Group]:
    """Models served at once: all when evaluate.together, else one place as large as the largest."""
    engines = {}
    if recipe.teacher.model:
        engines["teacher"] = {**recipe.serve.engine, **pipeline.served_as(recipe, "teacher")}
    for name in recipe.all_students():
        engines["baseline" if recipe.student else f"{name}-baseline"] = recipe.serve.engine
        engines[name] = recipe.serve.engine
    sizes = {name: _split(_engine(asked), node_of(recipe), name) for name, asked in engines.items()}
    if recipe.evaluate.together:
        return [Group(name, *size) for name, size in sizes.items()]
    return [Group("models", *max(sizes.values(), key=lambda size: size[0] * size[1]))]


def _engine(asked: Mapping[str, Any]) -> placement.Shape:
    return placement.Shape(1, int(asked.get("tensor_parallel_size", 1)), int(asked.get("pipeline_parallel_size", 1)))


def _pods(recipe: Recipe, asked: Mapping[str, Any] | None, what: str) -> tuple[int, int]:
    return _split(placement.shape(asked, recipe.compute.generate, on_gpu=True), node_of(recipe), what)


def _split(shape: placement.Shape, node: Node, what: str) -> tuple[int, int]:
    """GPUs of a pod, and pods of an engine. Raises RecipeError when one pipeline stage is larger than a node."""
    if shape.gpus <= node.gpus:
        return shape.gpus, 1
    if shape.stage_gpus > node.gpus:
        raise RecipeError(
            f"{what}: tensor_parallel {shape.stage_gpus} needs so many GPUs in one node, and nodes of this type have "
            f"{node.gpus}; write tensor_parallel: {node.gpus} and pipeline_parallel: "
            f"{-(-shape.gpus // node.gpus)} in compute.generate"
        )
    held = next(n for n in range(node.gpus // shape.stage_gpus, 0, -1) if shape.stages % n == 0)
    return shape.stage_gpus * held, shape.stages // held

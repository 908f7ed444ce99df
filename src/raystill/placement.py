"""Where one engine's GPUs lie: on one node when one is large enough, else its pipeline stages over several.

The GPUs of a stage share every layer's tensors, so they share a node; between stages little is sent. Arithmetic only.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raystill import recipe

Node = Mapping[str, float]
"""What a Ray node has, by name; CPU and GPU are looked at."""


@dataclass(frozen=True)
class Shape:
    """What one engine holds: CPUs, GPUs of one pipeline stage (0 without GPUs), and stages."""

    cpus: int
    stage_gpus: int
    stages: int = 1

    @property
    def gpus(self) -> int:
        """Its GPUs in all."""
        return self.stage_gpus * self.stages

    def whole(self, nodes: Sequence[Node]) -> int:
        """Engines that fit when each lies on one node."""
        return sum(_times(node, self.cpus, self.gpus) for node in nodes)

    def spread(self, nodes: Sequence[Node]) -> int:
        """Engines of several stages that fit when these may lie on several nodes; any stage may be the first.

        On a node that stages leave a GPU of, PACK would put a part of another stage: such nodes are not counted.
        """
        if self.stages == 1:
            return 0
        first_cpus = self.cpus + self.stage_gpus - 1
        even = [node for node in nodes if node.get("GPU", 0) % self.stage_gpus == 0]
        return sum(_times(node, first_cpus, self.stage_gpus) for node in even) // self.stages

    def __str__(self) -> str:
        one = f"{self.gpus} GPUs and {self.cpus} CPUs"
        if self.stages == 1:
            return one
        bundles = f"a placement group of {self.gpus} bundles {{GPU: 1}}, PACK"
        return f"{one}, or {self.stages} times {self.stage_gpus} GPUs on one node each ({bundles})"

    def bundles(self) -> list[dict[str, float]]:
        """The placement group of a spread engine: vLLM takes one GPU per bundle; the engine's own CPUs lie in the first."""
        return [{"GPU": 1, "CPU": self.cpus if i == 0 else 1} for i in range(self.gpus)]


def asked(kind: str, engine: Mapping[str, Any], wide: recipe.Generate) -> dict[str, Any] | None:
    """The arguments of an engine of this kind, with what compute.generate says for all; None for one without GPUs."""
    if kind == "transformers":
        return {}  # on one device
    given = {"tensor_parallel_size": wide.tensor_parallel, "pipeline_parallel_size": wide.pipeline_parallel}
    whole = {**engine, **{key: size for key, size in given.items() if size is not None}}
    return whole if kind == "vllm" or whole else None


def replicas(wide: recipe.Generate) -> tuple[int, int]:
    """The least and the most engines."""
    return (wide.replicas, wide.replicas) if isinstance(wide.replicas, int) else wide.replicas


def shape(engine: Mapping[str, Any] | None, wide: recipe.Generate, on_gpu: bool) -> Shape:
    """An engine with these arguments. compute.generate.cpus replaces its share of this machine's CPUs, and
    compute.generate.gpus its own arithmetic."""
    _, most = replicas(wide)
    cpus = wide.cpus or max(1, (os.cpu_count() or 1) // most)
    if not on_gpu or engine is None:
        return Shape(cpus, wide.gpus or 0)
    tensor, pipeline = int(engine.get("tensor_parallel_size", 1)), int(engine.get("pipeline_parallel_size", 1))
    return Shape(cpus, tensor, pipeline) if wide.gpus in (None, tensor * pipeline) else Shape(cpus, wide.gpus)


def _times(node: Node, cpus: int, gpus: int) -> int:
    return min(int(node.get(kind, 0) // each) for kind, each in (("CPU", cpus), ("GPU", gpus)) if each)

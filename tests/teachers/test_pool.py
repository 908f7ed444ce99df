"""Replicas over several nodes, on a Ray cluster of logical GPUs: where they land, how many fit, and what is left behind."""

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from raystill import artifacts
from raystill.artifacts import Checkpoint, Manifest, Table
from raystill.context import Context
from raystill.errors import ResourceError
from raystill.recipe import Compute, Teacher
from raystill.records import Generation, Message, Prompt
from raystill.stages import generate
from raystill.view import Lines

pytestmark = pytest.mark.slow

PLACED = """
import json
from pathlib import Path
import ray
from raystill.artifacts import Checkpoint
from raystill.teachers import generation
from raystill.teachers.scripted import Scripted

class Placed(Scripted):
    async def answer(self, prompt):
        group = ray.util.get_current_placement_group()
        table = ray.util.placement_group_table(group) if group else {}
        told = {k: table.get(k) for k in ("bundles", "bundles_to_node_id", "strategy")}
        return [generation(prompt, text=json.dumps(told | {"node": ray.get_runtime_context().get_node_id()}))]

class Noted(Checkpoint):
    def folder(self, cache=None):
        Path(self.fingerprint, ray.get_runtime_context().get_node_id()).touch()
        return self.url
"""


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """A head without GPUs and two nodes of two each, whose ids these are."""
    import ray
    from ray.cluster_utils import Cluster

    plugins = tmp_path_factory.mktemp("plugins")
    (plugins / "placed_teacher.py").write_text(PLACED)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(plugins)
        patch.setenv("PYTHONPATH", f"{plugins}:{os.environ.get('PYTHONPATH', '')}")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0})
        try:
            made = [cluster.add_node(num_cpus=4, num_gpus=2) for _ in range(2)]
            ray.init(address=cluster.address)
            yield [node.node_id for node in made]
        finally:
            ray.shutdown()
            cluster.shutdown()


def run(root: Path, model: Checkpoint | None = None, **wide: object) -> tuple[list[Generation], str]:
    """What a teacher that tells where it is answered to two units, and what was said."""
    parts = [
        artifacts.write_part(
            f"{root}/p", "train", Prompt, [Prompt(i, None, [Message("user", i)], None, "t", "f", "train", None, "{}")]
        )
        for i in "ab"
    ]
    prompts = artifacts.commit(Table, f"{root}/p", Manifest("prompts", 1, "prepare", 1, "p", {}, {}, parts))
    said = io.StringIO()
    compute = Compute.model_validate({"generate": wide})
    context = Context(f"{root}/generate/g", compute, Lines(said), 0.0, root)
    teacher = Teacher.model_validate({"kind": "placed_teacher:Placed"})
    outcome = generate.generate(teacher, model, prompts, None, None, context)
    manifest = Manifest("g", 1, "generate", 1, "g", {}, {}, list(outcome.files))
    return list(artifacts.commit(Table, context.url, manifest).rows(Generation)), said.getvalue()


def test_an_engine_too_large_for_a_node_fills_a_placement_group_over_two(nodes: list[str], tmp_path: Path) -> None:
    import ray

    rows, said = run(tmp_path, replicas=2, cpus=2, tensor_parallel=2, pipeline_parallel=2)
    assert "1 of 2 replicas fit this cluster" in said
    assert len(rows) == 2
    for told in (json.loads(row.text) for row in rows):
        assert [bundle["GPU"] for bundle in told["bundles"].values()] == [1] * 4
        assert told["strategy"] == "PACK"
        lies = list(told["bundles_to_node_id"].values())
        assert sorted(lies) == sorted(nodes * 2)
        assert told["node"] == told["bundles_to_node_id"]["0"]
    assert {group["state"] for group in ray.util.placement_group_table().values()} == {"REMOVED"}


def test_weights_are_staged_on_every_node_of_an_engine(nodes: list[str], tiny_model: Path, tmp_path: Path) -> None:
    from placed_teacher import Noted

    (tmp_path / "staged").mkdir()
    model = Noted(str(tiny_model), str(tmp_path / "staged"))
    run(tmp_path, model, cpus=2, tensor_parallel=2, pipeline_parallel=2)
    assert set(nodes) <= {file.name for file in (tmp_path / "staged").iterdir()}


def test_an_engine_that_fits_a_node_needs_no_placement_group(nodes: list[str], tmp_path: Path) -> None:
    rows, said = run(tmp_path, replicas=[1, 2], cpus=2, tensor_parallel=2)
    assert "replicas fit" not in said
    told = [json.loads(row.text) for row in rows]
    assert all(t["bundles"] is None and t["node"] in nodes for t in told)


def test_an_engine_that_no_node_can_hold_is_refused_with_the_arithmetic(nodes: list[str], tmp_path: Path) -> None:
    with pytest.raises(
        ResourceError,
        match=r"one generate replica needs one node of 8 GPUs and 1 CPUs, or 2 times 4 GPUs on one node each .*; the nodes "
        r"of this Ray cluster are 1 of 1 CPUs and 0 GPUs, 2 of 4 CPUs and 2 GPUs",
    ):
        run(tmp_path, cpus=1, tensor_parallel=4, pipeline_parallel=2)

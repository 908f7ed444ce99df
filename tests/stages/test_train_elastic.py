"""A range of workers: training takes what the cluster has, and goes on with fewer when a node is lost."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from test_train import CONFIG, Told, context, curve, examples, run

from raystill import recipe

ALIKE = {"zero": 1, "cpus": 2, "micro_tokens": 64}


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head that holds no worker, and two nodes for one each."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 1})
    for _ in range(2):
        cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.slow
def test_a_lost_node_leaves_fewer_workers_and_the_same_losses(cluster: Any, tiny_model: Path, tmp_path: Path) -> None:
    table, told = examples(tmp_path / "examples"), Told()
    told.after[5] = lambda: cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    where = context(tmp_path / "elastic", told, workers=(1, 2), **ALIKE)
    config = CONFIG.model_copy(update={"checkpoint_every": 2})
    elastic = curve(run(tiny_model, where, table, config), where)
    assert any("with 1 worker and ZeRO 1, where it had 2 workers and ZeRO 1" in line for line in told.lines)
    alone = context(tmp_path / "alone", workers=1, **ALIKE)
    straight = curve(run(tiny_model, alone, table), alone)
    assert [row["loss"] for row in elastic] == pytest.approx([row["loss"] for row in straight], rel=1e-5)


@pytest.mark.parametrize("workers", [(0, 2), (3, 2), 0])
def test_a_range_that_is_none_is_refused(workers: Any) -> None:
    with pytest.raises(ValidationError, match="1 <= least <= most"):
        recipe.Workers(workers=workers)

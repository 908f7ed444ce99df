"""Seeds of the nemesis, small ones against a Ray that stays and full ones with a Ray of their own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos import FULL, SMALL, anywhere, chaos


@pytest.fixture(scope="module")
def standing_ray() -> Iterator[None]:
    """A Ray that outlives its drivers, as on a cluster."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 8})
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_ADDRESS", cluster.address)
        yield
    cluster.shutdown()


# Every kind of mark is drawn; store faults need S3, and the one freeze is left out where its run ends before.
@pytest.mark.parametrize("seed", range(5, 10))
def test_nothing_is_lost_doubled_or_swapped(seed: int, tmp_path: Path, standing_ray: None) -> None:
    assert chaos(seed, tmp_path, SMALL, f"{tmp_path}/runs").done


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 103))
def test_nor_by_a_longer_nemesis_on_disk_and_on_s3(seed: int, tmp_path: Path) -> None:
    outcome = anywhere(seed, tmp_path, FULL)
    assert outcome.done
    assert outcome.ledger is not None
    assert outcome.ledger.rejected == {"scripted error": 1, "ended its engine": 1}

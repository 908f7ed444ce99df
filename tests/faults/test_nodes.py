"""What a cluster does to a run: nodes go, messages get lost, memory ends, the head dies. No row is lost."""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest
from ledger import check
from runs import ended, run, start, wait_for_units, write

from raystill.stages import prepare

pytestmark = pytest.mark.slow
ROWS, UNIT_ROWS = 240, 20
IN_FLIGHT = 2
"""Replicas, of a unit each."""
GROWTH = 3 << 30
"""Bytes."""
MESSAGES = (
    "CoreWorkerService.grpc_client.PushTask",
    "CoreWorkerService.grpc_client.GetObjectStatus",
    "CoreWorkerService.grpc_client.ReportGeneratorItemReturns",
    "NodeManagerService.grpc_client.RequestWorkerLease",
    "ray::rpc::ActorInfoGcsService.grpc_client.CreateActor",
    "ray::rpc::InternalKVGcsService.grpc_client.InternalKVGet",
)
"""How work is handed out and comes back. With a tenth of every kind lost Ray 2.60 itself was seen to wait for ever."""


@contextlib.contextmanager
def new_cluster() -> Iterator[Any]:
    """A head that holds no replica, at RAY_ADDRESS, and two nodes for one replica each."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_ADDRESS", cluster.address)
        for _ in range(2):
            cluster.add_node(num_cpus=2)
        yield cluster
    cluster.shutdown()


@pytest.fixture
def asked() -> dict[str, str]:
    """Each row's prompt."""
    return {f"r{i}": f"question {i}" for i in range(ROWS)}


def prepared(folder: Path, asked: dict[str, str], teacher: str = "{kind: scripted, scripted: {delay_s: 1.0}}") -> str:
    """The recipe of a run with a dozen units of a second each, after prepare."""
    recipe = write(folder, asked, teacher=teacher, generate=f"{{replicas: {IN_FLIGHT}, cpus: 2, units_in_flight: 1}}")
    with mock.patch.object(prepare, "UNIT_ROWS", UNIT_ROWS):
        run(recipe, "prepare")
    return recipe


def test_a_lost_node_costs_its_units_in_flight(tmp_path: Path, asked: dict[str, str]) -> None:
    recipe = prepared(tmp_path, asked)
    with new_cluster() as cluster:
        running = start(recipe, "--only", "generate")
        wait_for_units(tmp_path, running, 2)
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
        ended(running)
    assert check(f"{tmp_path}/runs", asked).redone <= 1


def test_a_drained_node_costs_nothing(tmp_path: Path, asked: dict[str, str]) -> None:
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    recipe = prepared(tmp_path, asked)
    with new_cluster() as cluster:
        running = start(recipe, "--only", "generate")
        wait_for_units(tmp_path, running, 2)
        leaving, grace_s = next(iter(cluster.worker_nodes)), 5
        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        until_ms = int((time.time() + grace_s) * 1000)
        accepted, why = GcsClient(address=cluster.address).drain_node(leaving.node_id, reason, "spot", until_ms)
        assert accepted, why
        time.sleep(grace_s)
        cluster.remove_node(leaving, allow_graceful=False)
        ended(running)
    assert check(f"{tmp_path}/runs", asked).redone == 0


def test_a_head_that_dies_ends_the_run_and_another_goes_on(
    tmp_path: Path, asked: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "5")  # instead of a minute
    recipe = prepared(tmp_path, asked)
    with new_cluster() as cluster:
        running = start(recipe, "--only", "generate")
        wait_for_units(tmp_path, running, 2)
        cluster.head_node.kill_gcs_server()
        said = ended(running, 1)  # Ray ends the process: its last words are in the log that we named
    (log,) = (tmp_path / "runs" / "logs").glob("*")
    assert f"log: {log}" in said
    assert "Failed to connect to GCS" in log.read_text()
    with new_cluster():
        ended(start(recipe, "--only", "generate"))
    assert check(f"{tmp_path}/runs", asked).redone <= IN_FLIGHT


def test_lost_messages_between_rays_processes_lose_no_row(
    tmp_path: Path, asked: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    once = {"num_lower_bound_req_failures": 1, "num_lower_bound_resp_failures": 1}
    often = {"num_failures": 20, "req_failure_prob": 15, "resp_failure_prob": 15} | once
    monkeypatch.setenv("RAY_testing_rpc_failure", json.dumps(dict.fromkeys(MESSAGES, often)))
    recipe = prepared(tmp_path, asked)
    with new_cluster():
        ended(start(recipe, "--only", "generate"))
    check(f"{tmp_path}/runs", asked)


def test_a_row_that_ends_the_memory_is_given_up(
    tmp_path: Path, asked: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked["r7"] += " <<kill>>"
    memory = psutil.virtual_memory()
    most = (memory.total - memory.available + GROWTH / 2) / memory.total
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{most:.3f}")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    monkeypatch.setenv("GROW_BYTES", str(GROWTH))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")
    recipe = prepared(tmp_path, asked, "{kind: 'growing:Growing'}")
    with new_cluster():
        ended(start(recipe, "--only", "generate"))
    ledger = check(f"{tmp_path}/runs", asked)
    assert ledger.rejected == {"ended its engine": 1}
    assert ledger.redone >= 4  # two deaths of the unit, and two of the row

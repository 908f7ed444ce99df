"""A Ray node that goes away in the middle: its units are redone elsewhere, and no row is lost."""

import io
import threading
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from raystill import artifacts
from raystill.artifacts import Manifest, Table
from raystill.context import Context
from raystill.recipe import Compute, Teacher
from raystill.records import Message, Prompt
from raystill.stages import generate
from raystill.view import Lines

pytestmark = pytest.mark.slow
UNITS, ROWS = 12, 20


def test_a_lost_node_loses_no_row(tmp_path: Path) -> None:
    import ray
    from ray.cluster_utils import Cluster

    parts = []
    for u in range(UNITS):
        rows = [
            Prompt(f"r{u}-{i}", None, [Message("user", "a")], None, "t", "f", "train", "yes", "{}") for i in range(ROWS)
        ]
        parts.append(artifacts.write_part(str(tmp_path / "p"), "train", Prompt, rows))
    prompts = artifacts.commit(Table, str(tmp_path / "p"), Manifest("prompts", 1, "prepare", 1, "p", {}, {}, parts))
    out = tmp_path / "generate" / "g"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        doomed = cluster.add_node(num_cpus=2)
        cluster.add_node(num_cpus=2)
        ray.init(address=cluster.address)
        compute = Compute.model_validate({"generate": {"replicas": 2, "cpus": 2, "units_in_flight": 1}})
        context = Context(str(out), compute, Lines(io.StringIO()), 0.0, tmp_path)

        def lose() -> None:
            while not list(out.glob("*.parquet")):
                time.sleep(0.05)
            cluster.remove_node(doomed, allow_graceful=False)

        losing = threading.Thread(target=lose)
        losing.start()
        slow = Teacher.model_validate({"kind": "scripted", "scripted": {"delay_s": 1.0}})
        outcome = generate.generate(slow, None, prompts, None, None, context)
        losing.join()
    finally:
        ray.shutdown()
        cluster.shutdown()
    answered = [i for f in outcome.files for i in pq.read_table(out / f.path)["id"].to_pylist()]
    assert Counter(answered) == Counter(p.id for p in prompts.rows(Prompt))

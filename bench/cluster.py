"""A run over three Ray nodes that loses a node and a train worker, a driver of 200 stages, and a plan beside its run.

    make bench-cluster        needs root for the nodes' networks; --only plan|stages|nodes

nodes: cluster/local-multinode.sh, and `submit --to ray` on it: a scripted teacher with a replica per node, a real training
with a worker per node, vLLM behind Ray Serve. Of one node every process is killed when 40% of the units are there; it comes
back ten seconds later, as another node would. In train one worker is killed after the first checkpoint.

    units_redone      units that were begun more than once
    lost_rows         rows that are neither answered nor rejected, by the independent ledger of tests/faults
    train_nodes       different nodes of the train workers

stages: one driver makes 200 RayJobs, one after another, on the stub API server of tests/launch.

    driver_rss_mb            the driver's memory after the last; driver_rss_growth_mb: since the twentieth
    requests_per_stage       and stage_polls, what a look every POLL_S at a stage of that length comes to

plan: bench/plan.py, a plan beside the run that it plans; about ten minutes of the whole.

Expected: no row lost, some units redone, three nodes, memory flat, requests as many as looks plus four.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import alone
import plan
import psutil
from machine import seen

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT / "tests" / "launch"), str(ROOT / "tests" / "faults")]
SCRIPT = ROOT / "cluster" / "local-multinode.sh"
DASHBOARD = "http://10.77.0.1:8265"
STAGES, POLL_S = 200, 0.1
ROWS, TEST_ROWS, UNIT_S = 6000, 60, 4.0
NODES, KILLED_AT, AWAY_S = 3, 0.4, 10
RECIPE = """
name: three-nodes
task: conversation
root: {root}
data: {{train: {folder}/train.jsonl, test: {folder}/test.jsonl, reference: reference, id: id, split: {{validation: 0.01}}}}
teacher: {{kind: scripted, scripted: {{delay_s: {unit_s}}}}}
student:
  model: {data}/model
  init: {{random: {{hidden_size: 64, intermediate_size: 128, num_attention_heads: 2, num_key_value_heads: 2, head_dim: 32}}}}
train: {{learning_rate: 2.0e-3, batch_size: 48, epochs: 1, max_length: 128, checkpoint_every: 20}}
evaluate: {{limit: 30, max_tokens: 16, load: [1], load_requests: 8}}
compute:
  generate: {{replicas: {nodes}, cpus: 2, units_in_flight: 1}}
  train: {{workers: {nodes}, zero: 1, cpus: 2, micro_tokens: 512}}
"""


def stages() -> dict[str, float]:
    """What a driver of many stages needs."""
    from documents import of_stage, rendered
    from stub_api import TOKEN, cluster

    with tempfile.TemporaryDirectory(prefix="bench-cluster-") as folder, cluster(Path(folder)) as stub:
        job = {"url": stub.url, "token": TOKEN, "stages": STAGES, "poll_s": POLL_S}
        started = time.perf_counter()
        rss_mb = alone.result(
            "cluster_driver.py", "drive", {**job, "rayjob": of_stage(rendered("flagship"), "train")}, 300
        )
        each_s = (time.perf_counter() - started) / STAGES
        assert stub.requests["create rayjobs"] == STAGES == len(stub.of("rayjobs"))
        asked = sum(stub.requests.values()) / STAGES
    return {
        "driver_rss_mb": rss_mb[-1],
        "driver_rss_growth_mb": rss_mb[-1] - rss_mb[STAGES // 10 - 1],
        "requests_per_stage": asked,
        "stage_polls": each_s / POLL_S,
    }


def write(folder: Path) -> tuple[str, dict[str, str]]:
    """A recipe with its rows, and what each row asks."""
    subprocess.run([sys.executable, str(ROOT / "jobs" / "demo_data.py"), str(folder / "demo")], check=True)
    asked = {f"r{i}": f"question {i}" for i in range(ROWS)}
    tests = {f"t{i}": f"another question {i}" for i in range(TEST_ROWS)}
    for name, rows in (("train", asked), ("test", tests)):
        lines = (json.dumps({"id": i, "prompt": text, "reference": f"answer {i}"}) for i, text in rows.items())
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        RECIPE.format(root=folder / "root", folder=folder, data=folder / "demo", unit_s=UNIT_S, nodes=NODES)
    )
    return str(recipe), asked


@contextlib.contextmanager
def three_nodes() -> Iterator[Callable[[], str]]:
    """A Ray cluster whose nodes have addresses of their own; what brings back those that are gone."""
    environment = os.environ | {"RAY": str(Path(sys.executable).parent / "ray"), "NODES": str(NODES), "CPUS": "3"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"

    def script(verb: str) -> str:
        done = subprocess.run([str(SCRIPT), verb], env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return done.stdout

    try:
        exports = script("start").splitlines()[0].removeprefix("export ").split()
        os.environ.update({name: value for name, _, value in (each.partition("=") for each in exports)})
        yield lambda: script("start")
    finally:
        script("stop")


class Nemesis:
    """Watches a run from outside and kills: a node's processes, later one train worker."""

    def __init__(self, root: Path, bring_back: Callable[[], str]) -> None:
        self.root, self.bring_back = root, bring_back
        self.killed_at, self.train_nodes = 0.0, 0
        self.worker_killed = False
        self.over = threading.Event()

    def run(self) -> None:
        """Until both are done, or the run is over."""
        self.until(lambda: self.share() >= KILLED_AT)
        self.killed_at = self.share()
        for pid in pids(NODES - 1):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(AWAY_S)
        self.bring_back()
        self.until(lambda: len(workers()) == NODES)
        self.train_nodes = len(set(workers().values()))
        self.until(lambda: any(self.root.glob("train/*/work/checkpoints/*/manifest.json")))
        os.kill(next(iter(workers())), signal.SIGKILL)
        self.worker_killed = True

    def until(self, true: Callable[[], Any]) -> None:
        """Look until it is true."""
        while not true():
            if self.over.wait(0.2):
                raise SystemExit  # of this thread

    def share(self) -> float:
        """Of the units, those that are published."""
        units = len(list(self.root.glob("prepare/*/train*"))) + len(list(self.root.glob("prepare/*/validation*")))
        return len(list(self.root.glob("generate/*/*.parquet"))) / max(1, units)


def pids(node: int) -> list[int]:
    """Of all processes of a node."""
    done = subprocess.run(["ip", "netns", "pids", f"raystill{node}"], capture_output=True, text=True, check=True)
    return [int(pid) for pid in done.stdout.split()]


def workers() -> dict[int, int]:
    """Train workers' pids, each with its node."""
    found = {}
    for node in range(NODES):
        for pid in pids(node):
            with contextlib.suppress(psutil.Error):
                if "RayTrainWorker" in " ".join(psutil.Process(pid).cmdline()):
                    found[pid] = node
    return found


def nodes() -> dict[str, Any]:
    """The run, what was done to it, and its ledger."""
    from ledger import check

    from raystill.launch import follow, submit

    with tempfile.TemporaryDirectory(prefix="bench-cluster-", dir="/var/tmp") as name, three_nodes() as bring_back:
        recipe, asked = write(Path(name))
        nemesis = Nemesis(Path(name) / "root", bring_back)
        thread = threading.Thread(target=nemesis.run, daemon=True)
        started = time.perf_counter()
        place, run = submit.to_ray(recipe, None, DASHBOARD, print)
        thread.start()
        try:
            follow.follow(place, run, lambda line: print(" ", line, flush=True))
        finally:
            nemesis.over.set()
        elapsed_s = time.perf_counter() - started
        ledger = check(f"{name}/root", asked)
        report = json.loads((Path(name) / "root" / "reports" / run / "report.json").read_text())
    assert 0.3 <= nemesis.killed_at <= 0.7 and ledger.redone > 0, (nemesis.killed_at, ledger)
    assert nemesis.train_nodes == NODES and nemesis.worker_killed
    assert report
    return {
        "units": ledger.units,
        "units_redone": ledger.redone,
        "lost_rows": len(asked) - ledger.answered - sum(ledger.rejected.values()),
        "node_killed_at": nemesis.killed_at,
        "train_nodes": nemesis.train_nodes,
        "run_s": elapsed_s,
    }


def main() -> None:
    """What was found, a line each, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["plan", "stages", "nodes"])
    only = parser.parse_args().only
    found: dict[str, Any] = {"simulated": "the teacher, and Kubernetes", **seen()}
    if only in (None, "plan"):
        found |= plan.figures()
    if only in (None, "stages"):
        found |= stages()
    if only in (None, "nodes"):
        found |= nodes()
    for name, value in found.items():
        print(f"{name:<24} {value:.3f}" if isinstance(value, float) else f"{name:<24} {value}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()

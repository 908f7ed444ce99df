"""generate under a seeded nemesis: replicas and drivers killed, frozen and doubled, on disk and on S3, until a run ends well.

    python tests/faults/chaos.py --seeds 20 --rows 3000

Each seed writes a few thousand rows (some poisoned), runs `raystill run --only generate` again and again while things are
done to it, and ends in a ledger that reads inputs and outputs by itself: every id is exactly once answered or rejected,
with its own prompt. The teacher is scripted: this is about faults, and says nothing about speed.
"""

import argparse
import io
import json
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

REPLICAS, IN_FLIGHT = 2, 2
LIMIT_S = 420.0
S3_SHARE = 4
"""A suspected unit runs row by row, with four requests a row; the server, in Python, is what takes the time."""
FAULTS = ("kill replica", "kill replica", "freeze replica", "kill driver", "second driver", "store faults")


@dataclass
class Outcome:
    """What one seed did and found."""

    seed: int
    store: str
    done: list[str] = field(default_factory=list)
    runs: int = 0
    answered: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    units: int = 0
    redone: int = 0
    elapsed_s: float = 0.0
    simulated: bool = True


def write_inputs(folder: Path, root: str, rows: int, rng: random.Random) -> tuple[Path, dict[str, str]]:
    """The recipe and each row's prompt."""
    marks = ["<<kill>>"] + ["<<error>>"] * 5 + [f"<<kill-once:{folder / f'died-{i}'}>>" for i in range(2)]
    marks.append(f"<<hang-once:{folder / 'hung'}>>")
    marked = dict(zip(rng.sample(range(rows), len(marks)), marks, strict=True))
    asked = {f"r{i}": f"question {i} {marked.get(i, '')}".strip() for i in range(rows)}
    lines = (json.dumps({"id": i, "prompt": text, "reference": f"answer {i}"}) for i, text in asked.items())
    (folder / "rows.jsonl").write_text("\n".join(lines))
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        f"name: chaos\ntask: conversation\nroot: {root}\n"
        f"data: {{train: {folder / 'rows.jsonl'}, prompt: prompt, reference: reference, id: id, split: {{test: 0}}}}\n"
        "teacher: {kind: scripted, stall_s: 5, scripted: {delay_s: 0.05}}\n"
        f"student: {{model: {folder / 'model'}}}\n"
        f"compute: {{generate: {{replicas: {REPLICAS}, cpus: 1, units_in_flight: {IN_FLIGHT}}}}}\n"
    )
    return recipe, asked


def start(recipe: Path, stage: str = "generate") -> subprocess.Popen[str]:
    """One driver, in a process group of its own."""
    command = [sys.executable, "-m", "raystill", "run", str(recipe), "--only", stage]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def replicas(driver: subprocess.Popen[str]) -> list[psutil.Process]:
    """Its replicas' processes."""
    try:
        below = psutil.Process(driver.pid).children(recursive=True)
        return [p for p in below if "MapWorker" in " ".join(p.cmdline())]
    except psutil.Error:
        return []


def strike(fault: str, drivers: list[subprocess.Popen[str]], recipe: Path, proxy: Any, rng: random.Random) -> bool:
    """Do one thing; whether it could be done."""
    alive = [d for d in drivers if d.poll() is None]
    if fault == "second driver":
        drivers.append(start(recipe))
        return True
    if fault == "store faults":
        if proxy is not None:
            proxy.faults.extend(rng.choice(["503", "503", "lost"]) for _ in range(12))
        return proxy is not None
    if not alive:
        return False
    if fault == "kill driver":
        os.killpg(rng.choice(alive).pid, signal.SIGKILL)
        return True
    found = replicas(rng.choice(alive))
    if not found:
        return False
    hit = rng.choice(found)
    try:
        hit.send_signal(signal.SIGKILL if fault == "kill replica" else signal.SIGSTOP)
        if fault == "freeze replica":
            threading.Timer(3, lambda: hit.is_running() and hit.send_signal(signal.SIGCONT)).start()
    except psutil.Error:
        return False
    return True


def chaos(seed: int, folder: Path, rows: int, root: str, proxy: Any = None) -> Outcome:
    """One seed, to a clean ledger. Raises AssertionError when anything is lost, doubled or swapped, or nothing ends."""
    rng, outcome = random.Random(seed), Outcome(seed, "s3" if root.startswith("s3://") else "disk")
    recipe, asked = write_inputs(folder, root, rows, rng)
    prepare = start(recipe, "prepare")
    assert prepare.wait() == 0, prepare.stdout and prepare.stdout.read()
    began = time.monotonic()
    plan = sorted((rng.uniform(4, 30), rng.choice(FAULTS)) for _ in range(rng.randint(3, 6)))
    drivers = [start(recipe)]
    outcome.runs = 1
    while True:
        assert time.monotonic() - began < LIMIT_S, f"seed {seed} did not end: {outcome}"
        if plan and time.monotonic() - began > plan[0][0]:
            fault = plan.pop(0)[1]
            if strike(fault, drivers, recipe, proxy, rng):
                outcome.done.append(fault)
                outcome.runs += fault == "second driver"
        codes = [d.poll() for d in drivers]
        if all(code is not None for code in codes):
            if 0 in codes and not plan:
                break
            said = [d.stdout.read() for d, code in zip(drivers, codes, strict=True) if code and code > 0 and d.stdout]
            assert not said, f"seed {seed}: a run ended by itself: {said[0][-2000:]}"
            if 0 in codes:  # done before the nemesis was: what is left can only be done to a finished run
                plan.clear()
                continue
            drivers = [start(recipe)]
            outcome.runs += 1
        time.sleep(0.1)
    if proxy is not None:
        proxy.faults.clear()
    check_ledger(outcome, root, asked)
    outcome.elapsed_s = round(time.monotonic() - began, 1)
    return outcome


def check_ledger(outcome: Outcome, root: str, asked: dict[str, str]) -> None:
    """Every id exactly once, answered or rejected, with its own prompt; read by pyarrow and boto3 alone."""
    objects = dict(stored(f"{root}/generate"))
    manifests = [name for name in objects if name.endswith("/manifest.json")]
    assert len(manifests) == 1, manifests
    folder = manifests[0].rpartition("/")[0]
    files = [f["path"] for f in json.loads(objects[manifests[0]])["files"]]
    found = [row for f in files for row in pq.read_table(io.BytesIO(objects[f"{folder}/{f}"])).to_pylist()]
    assert Counter(row["id"] for row in found) == Counter(asked.keys())
    for row in found:
        assert row["messages"][-1]["content"] == asked[row["id"]]
        wanted = {"<<kill>>": "ended its engine", "<<error>>": "scripted error"}
        reason = next((said for mark, said in wanted.items() if mark in asked[row["id"]]), None)
        assert row["error"] == reason, (row["id"], row["error"], reason)
        assert row["error"] or row["text"] == f"answer {row['id']}"
    outcome.answered = sum(not row["error"] for row in found)
    outcome.rejected = dict(Counter(row["error"] for row in found if row["error"]))
    outcome.units = len(files)
    starts = Counter(name.rpartition("/")[2].rsplit(".", 1)[0] for name in objects if "/attempts/" in name)
    outcome.redone = sum(starts[f] - 1 for f in files)


def stored(url: str) -> Iterator[tuple[str, bytes]]:
    """All objects below a folder or prefix."""
    if not url.startswith("s3://"):
        for path in Path(url).rglob("*"):
            if path.is_file():
                yield path.relative_to(url).as_posix(), path.read_bytes()
        return
    import boto3

    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    client = boto3.client("s3")
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/"):
        for entry in page.get("Contents", []):
            body = client.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
            yield entry["Key"].removeprefix(f"{prefix}/"), body


def main() -> None:
    """Seeds on disk; every third on S3 behind a proxy with faults."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--rows", type=int, default=3000)
    asked = parser.parse_args()
    ended = []
    for seed in range(asked.first, asked.first + asked.seeds):
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            if seed % 3 == 2:
                outcome = on_s3(seed, Path(folder), asked.rows)
            else:
                outcome = chaos(seed, Path(folder), asked.rows, f"{folder}/runs")
        ended.append(outcome)
        print(
            f"seed {seed:>3} {outcome.store:<4} {outcome.elapsed_s:>6.1f} s  {outcome.runs} runs  {outcome.units} units  "
            f"{outcome.redone} redone  {outcome.answered} answered  {outcome.rejected}  {', '.join(outcome.done)}",
            flush=True,
        )
    print(json.dumps({"seeds": len(ended), "lost": 0, "doubled": 0, "outcomes": [asdict(o) for o in ended]}))


def on_s3(seed: int, folder: Path, rows: int) -> Outcome:
    """A seed on a fresh S3 protocol server behind the proxy."""
    from fixtures_s3 import before_s3, s3_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with s3_server() as url, before_s3() as proxy:
        return chaos(seed, folder, rows // S3_SHARE, f"{url}/{seed}/runs", proxy)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()

"""generate under a seeded nemesis: replicas and drivers killed, frozen and doubled, on disk and on S3, until a run ends well.

    python tests/faults/chaos.py --seeds 20

Each seed writes a few thousand rows (some poisoned), runs `raystill run --only generate` again and again while things are
done to it, and ends in a ledger that reads inputs and outputs by itself: every id is exactly once answered or rejected,
with its own prompt. The teacher is scripted: this is about faults, and says nothing about speed.
"""

import argparse
import contextlib
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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
from ledger import Ledger, check
from runs import run, start, write

from raystill.stages import prepare

REPLICAS, IN_FLIGHT = 2, 2
LIMIT_S = 420.0
FAULTS = ("kill replica", "kill replica", "freeze replica", "kill driver", "second driver", "store faults")
"""The last needs a proxy before the store."""
DEATHS = {
    "<<kill>>": 4,
    "<<kill-once": 1,
    "<<hang-once": 1,
    "kill replica": 1,
    "freeze replica": 1,
    "kill driver": REPLICAS,
}
"""Processes that a mark or fault ends at most. A row takes its unit with it twice, and then itself twice."""


@dataclass(frozen=True)
class Size:
    """How much a seed is asked and put through."""

    rows: int
    unit_rows: int
    """Most rows of a unit. One under suspicion runs row by row."""
    delay_s: float
    """Of each answer, and so of a whole unit."""
    stall_s: float
    marks: int
    """Rows that do harm."""
    faults: tuple[int, int]
    """Fewest and most."""
    until_s: float
    """Time of the last fault, from the first replica on."""


FULL = Size(rows=3000, unit_rows=96, delay_s=0.2, stall_s=5, marks=5, faults=(3, 6), until_s=25)
SMALL = Size(rows=800, unit_rows=24, delay_s=0.2, stall_s=3, marks=2, faults=(2, 3), until_s=4)


@dataclass
class Outcome:
    """What was done to one seed, and what it came to."""

    seed: int
    store: str
    done: list[str] = field(default_factory=list)
    runs: int = 0
    elapsed_s: float = 0.0
    ledger: Ledger | None = None
    most_redone: int = 0
    """What was in flight whenever something died; a second driver may do all units again."""


def prompts(folder: Path, size: Size, rng: random.Random) -> dict[str, str]:
    """Each row's prompt."""
    once = [f"<<kill-once:{folder / f'died-{i}'}>>" for i in range(2)]
    marks = rng.sample(["<<kill>>", "<<error>>", *once, f"<<hang-once:{folder / 'hung'}>>"], size.marks)
    marked = dict(zip(rng.sample(range(size.rows), len(marks)), marks, strict=True))
    return {f"r{i}": f"question {i} {marked.get(i, '')}".strip() for i in range(size.rows)}


def replicas() -> list[psutil.Process]:
    """All replicas' processes."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "MapWorker" in " ".join(process.cmdline()):
                found.append(process)
    return found


def strike(fault: str, drivers: list[subprocess.Popen[str]], recipe: str, proxy: Any, rng: random.Random) -> bool:
    """Do one thing; whether it could be done."""
    alive = [d for d in drivers if d.poll() is None]
    if fault == "second driver":
        drivers.append(start(recipe, "--only", "generate"))
        return True
    if fault == "store faults":
        proxy.faults.extend(rng.choice(["503", "503", "lost", "cut", "slow"]) for _ in range(12))
        return True
    if not alive:
        return False
    if fault == "kill driver":
        os.killpg(rng.choice(alive).pid, signal.SIGKILL)
        return True
    if not (found := replicas()):
        return False
    hit = rng.choice(found)
    try:
        hit.send_signal(signal.SIGKILL if fault == "kill replica" else signal.SIGSTOP)
        if fault == "freeze replica":
            threading.Timer(3, lambda: hit.is_running() and hit.send_signal(signal.SIGCONT)).start()
    except psutil.Error:
        return False
    return True


def chaos(seed: int, folder: Path, size: Size, root: str, proxy: Any = None) -> Outcome:
    """One seed, to a clean ledger. Raises AssertionError when anything is lost, doubled or swapped, or nothing ends."""
    rng, outcome = random.Random(seed), Outcome(seed, "s3" if root.startswith("s3://") else "disk")
    asked = prompts(folder, size, rng)
    teacher = f"{{kind: scripted, stall_s: {size.stall_s}, scripted: {{delay_s: {size.delay_s}}}}}"
    wide = f"{{replicas: {REPLICAS}, cpus: 1, units_in_flight: {IN_FLIGHT}}}"
    recipe = write(folder, asked, root, teacher, wide)
    with mock.patch.object(prepare, "UNIT_ROWS", size.unit_rows):
        run(recipe, "prepare")
    faults = FAULTS if proxy is not None else FAULTS[:-1]
    plan = sorted((rng.uniform(0, size.until_s), rng.choice(faults)) for _ in range(rng.randint(*size.faults)))
    began = time.monotonic()
    drivers = [start(recipe, "--only", "generate")]
    outcome.runs = 1
    while not replicas() and drivers[0].poll() is None:
        time.sleep(0.1)
    ready = time.monotonic()
    while True:
        assert time.monotonic() - began < LIMIT_S, f"seed {seed} did not end: {outcome}"
        if plan and time.monotonic() - ready > plan[0][0]:
            fault = plan.pop(0)[1]
            if strike(fault, drivers, recipe, proxy, rng):
                outcome.done.append(fault)
                outcome.runs += fault == "second driver"
        codes = [d.poll() for d in drivers]
        if all(code is not None for code in codes):
            said = [d.communicate()[0] for d, code in zip(drivers, codes, strict=True) if code and code > 0]
            assert not said, f"seed {seed}: a run ended by itself: {said[0][-2000:]}"
            if 0 in codes:  # what is left of the plan could only be done to a finished run
                break
            drivers = [start(recipe, "--only", "generate")]
            outcome.runs += 1
        time.sleep(0.1)
    if proxy is not None:
        proxy.faults.clear()
    outcome.elapsed_s = round(time.monotonic() - began, 1)
    outcome.ledger = check(root, asked)
    died = sum(DEATHS.get(fault, 0) for fault in outcome.done)
    died += sum(deaths * " ".join(asked.values()).count(mark) for mark, deaths in DEATHS.items())
    outcome.most_redone = IN_FLIGHT * died + outcome.ledger.units * outcome.done.count("second driver")
    assert outcome.ledger.redone <= outcome.most_redone, outcome
    return outcome


def on_s3(seed: int, folder: Path, size: Size) -> Outcome:
    """A seed on a fresh S3 protocol server behind the proxy."""
    from fixtures_s3 import before_s3, s3_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with s3_server() as url, before_s3() as proxy:
        return chaos(seed, folder, size, f"{url}/{seed}/runs", proxy)


def anywhere(seed: int, folder: Path, size: Size) -> Outcome:
    """A seed on disk; every third on S3."""
    return on_s3(seed, folder, size) if seed % 3 == 2 else chaos(seed, folder, size, f"{folder}/runs")


def main() -> None:
    """Full seeds, one after another; a line for each, and all that was found as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0)
    asked = parser.parse_args()
    ended = []
    for seed in range(asked.first, asked.first + asked.seeds):
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            outcome = anywhere(seed, Path(folder), FULL)
        ended.append(outcome)
        found = outcome.ledger
        assert found is not None
        print(
            f"seed {seed:>3} {outcome.store:<4} {outcome.elapsed_s:>6.1f} s  {outcome.runs} runs  {found.units} units, "
            f"{found.redone} redone of at most {outcome.most_redone}  {found.answered} answered, {found.rejected}  "
            f"{', '.join(outcome.done)}",
            flush=True,
        )
    print(json.dumps({"seeds": len(ended), "outcomes": [asdict(o) for o in ended]}))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()

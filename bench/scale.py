"""The control plane: what one driver keeps busy, whether its memory and rate stay flat, and what an API client carries.

    python bench/scale.py [--replicas 8 32] [--rows 1000000] [--only efficiency|flat|api]

Real Ray, real Ray Data, real storage; the teacher is the scripted one, so every figure is of our own cost and is marked
simulated. A unit of 256 prompts takes DELAY_S in a replica, whatever the number of its rows, as on an engine that holds
them all at once: 32 replicas with one unit in flight each are then to do 500 rows/s. With answers of 800 tokens a replica
is an H100 with Llama-3.1-8B at its published 12,500 tokens/s.

    efficiency_N          rows/s in steady state over what N replicas could do with no cost at all
    straggler_tail        seconds from when the first replica has nothing left to the end, over the whole run; the worst
    simulation_error_N    bench/simulate.py's seconds for that run over the real ones, less one
    driver_rss_growth_mb  the driver's memory after all rows less after the first tenth
    rows_per_s_flatness   slowest tenth of the run over the median tenth
    api_*                 the endpoint teacher on one core beside a server that takes 8 s an answer (scale_api.py)

Expected on two cores: 0.97 at 8 replicas, 0.90-0.95 at 32, where 500 rows/s at 0.6 ms a row (Python in the replicas: read,
answer, encode, publish) take a third of the machine; memory flat, since only counts come back; 2,000 requests in flight
at 2-4 ms of CPU each.
"""

import argparse
import io
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine
import psutil
import scale_api
import simulate

from raystill import artifacts, session
from raystill.artifacts import Manifest, Table
from raystill.context import Context
from raystill.recipe import Compute, Teacher
from raystill.records import Message, Prompt
from raystill.stages import generate
from raystill.view import Lines

UNIT_ROWS = 256
DELAY_S = 32 * UNIT_ROWS / 500
"""Seconds per unit at which 32 replicas would do 500 rows/s."""
ROUNDS = 10
"""Units per replica in an efficiency run: the first and the last are not counted. Replicas that begin seconds apart end
seconds apart, so the tail's share falls with the length of the run; this one lasts under three minutes."""

API_CONCURRENCY = 2000
API_ROWS = 20_480
"""A minute or more at full concurrency, after about a hundred seconds of growing to it."""


@dataclass(frozen=True)
class Mark:
    """When the driver heard of a unit, its memory then, and the CPU that it had used up to then."""

    at: float
    rss_mb: float
    cpu_s: float


class Watch(Lines):
    """Notes what the driver is like when it hears of each unit."""

    def __init__(self) -> None:
        super().__init__(io.StringIO())
        self.marks: list[Mark] = []
        self.process = psutil.Process()

    def advance(self, done: int = 1, **scalars: float) -> None:
        """A unit is done."""
        self.marks.append(Mark(time.time(), self.process.memory_info().rss / 2**20, time.process_time()))


@dataclass(frozen=True)
class Run:
    """When units were begun and published, by the store's own times, from the first beginning on; and the driver's marks."""

    begun_s: list[float]
    ended_s: list[float]
    marks: list[Mark]


def prompts(root: Path, units: int) -> Table:
    """So many units of short prompts."""
    parts = []
    for unit in range(units):
        rows = [
            Prompt(f"{unit}-{i}", None, [Message("user", f"question {unit} {i}")], None, "t", "f", "train", None, "{}")
            for i in range(UNIT_ROWS)
        ]
        parts.append(artifacts.write_part(str(root / "p"), "train", Prompt, rows))
    return artifacts.commit(Table, str(root / "p"), Manifest("prompts", 1, "prepare", 1, "p", {}, {}, parts))


def run(replicas: int, units: int, delay_s: float, in_flight: int) -> Run:
    """So many units over so many replicas. The driver hears of a unit when the next is there: files know when it was."""
    compute = Compute.model_validate(
        {"cpus": replicas + 2, "generate": {"replicas": replicas, "cpus": 1, "units_in_flight": in_flight}}
    )
    teacher = Teacher.model_validate({"kind": "scripted", "scripted": {"delay_s": delay_s}})
    with tempfile.TemporaryDirectory(prefix="scale-") as folder, session.ray_session(compute) as ensure_ray:
        table = prompts(Path(folder), units)
        ensure_ray()
        watch = Watch()
        context = Context(f"{folder}/generate/g", compute, watch, 0.0, Path(folder))
        generate.generate(teacher, None, table, None, None, context)
        begun, ended = (
            sorted(path.stat().st_mtime for path in Path(context.url).glob(what))
            for what in ("attempts/*", "*.parquet")
        )
    begun_s, ended_s = ([round(at - begun[0], 3) for at in times] for times in (begun, ended))
    return Run(begun_s, ended_s, watch.marks)


def api(rows: int, concurrency: int) -> dict[str, float]:
    """An endpoint teacher with so many requests in flight."""

    def answer(url: str) -> None:
        endpoint = {"url": url, "model": "stub", "concurrency": concurrency, "price": {"input": 1, "output": 1}}
        teacher = Teacher.model_validate({"kind": "endpoint", "endpoint": endpoint})
        context = Context(f"{folder}/generate/g", Compute(), Watch(), 0.0, Path(folder))
        generate.generate(teacher, None, table, None, None, context)

    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        table = prompts(Path(folder), rows // UNIT_ROWS)
        return scale_api.run(answer)


def efficiency(ended: list[float], replicas: int, delay_s: float) -> float:
    """Units per second between the end of the first round and of the last but one, over replicas / delay."""
    first, last = ended[replicas - 1], ended[-replicas - 1]
    return (len(ended) - 2 * replicas) / (last - first) / (replicas / delay_s)


def tail(ended: list[float], replicas: int) -> float:
    """The last round's spread, over the whole run as it would be without start-up."""
    return (ended[-1] - ended[-replicas]) / (ended[-1] - ended[0])


def simulation_error(ended: list[float], ready: list[float], delay_s: float) -> float:
    """How far bench/simulate.py is off in the whole run's seconds, given when replicas were ready and how long a unit takes.

    Times count from when the first replica was ready.
    """
    return abs(simulate.scripted(ready, len(ended), delay_s).seconds / ended[-1] - 1)


def cpu_share(marks: list[Mark], replicas: int) -> float:
    """The driver's CPU between the first and the last round, in cores."""
    first, last = marks[replicas - 1], marks[-replicas - 1]
    return (last.cpu_s - first.cpu_s) / (last.at - first.at)


def tenths(ended: list[float]) -> list[float]:
    """Units per second in each tenth of the run but the first, in which replicas come."""
    tenth = len(ended) // 10
    return [tenth / (ended[(i + 1) * tenth - 1] - ended[i * tenth - 1]) for i in range(1, 10)]


def flatness(ended: list[float]) -> float:
    """Slowest tenth over the median tenth, by rate."""
    return min(tenths(ended)) / statistics.median(tenths(ended))


def main() -> None:
    """The table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicas", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--only", choices=["efficiency", "flat", "api"])
    parser.add_argument("--raw", type=Path, help="also write when each unit of the efficiency runs ended")
    asked = parser.parse_args()
    found: dict[str, Any] = {"simulated": True, **machine.seen()}
    raw: dict[int, dict[str, list[float]]] = {}
    for replicas in asked.replicas if asked.only in (None, "efficiency") else []:
        seen = run(replicas, replicas * ROUNDS, DELAY_S, 1)
        ended, ready = seen.ended_s, seen.begun_s[:replicas]
        raw[replicas] = {"ready_s": ready, "ended_s": ended}
        share, rest = efficiency(ended, replicas, DELAY_S), tail(ended, replicas)
        error, driver = simulation_error(ended, ready, DELAY_S), cpu_share(seen.marks, replicas)
        rows_per_s = share * replicas / DELAY_S * UNIT_ROWS
        print(
            f"{replicas:>3} replicas  {rows_per_s:7.1f} rows/s  efficiency {share:.3f}  straggler tail {rest:.3f}  "
            f"driver {driver:.3f} of a core  simulation off by {error:.3f}",
            flush=True,
        )
        found |= {f"efficiency_{replicas}": share, f"rows_per_s_{replicas}": rows_per_s}
        found |= {f"simulation_error_{replicas}": error, f"driver_cpu_share_{replicas}": driver}
        found["straggler_tail"] = max(found.get("straggler_tail", 0.0), rest)
    if asked.raw:
        asked.raw.write_text(json.dumps({**machine.seen(), "delay_s": DELAY_S, "runs": raw}) + "\n")
    if asked.only in (None, "flat"):
        units = asked.rows // UNIT_ROWS
        seen = run(4, units, 0.0, 2)
        ended, marks = seen.ended_s, seen.marks
        tenth = marks[len(marks) // 10]
        growth = marks[-1].rss_mb - tenth.rss_mb
        cpu_ms = 1000 * (marks[-1].cpu_s - tenth.cpu_s) / (len(marks) - 1 - len(marks) // 10)
        rows_per_s = (len(ended) - 1) * UNIT_ROWS / (ended[-1] - ended[0])
        print(
            f"{units * UNIT_ROWS} rows  {rows_per_s:.0f} rows/s  flatness {flatness(ended):.3f}  "
            f"driver +{growth:.0f} MB, {cpu_ms:.1f} ms of CPU per unit",
        )
        print("rows/s by tenth:", *(f"{UNIT_ROWS * rate:.0f}" for rate in tenths(ended)), flush=True)
        found |= {"rows": units * UNIT_ROWS, "flat_rows_per_s": rows_per_s, "rows_per_s_flatness": flatness(ended)}
        found |= {"driver_rss_growth_mb": growth, "driver_cpu_ms_per_unit": cpu_ms}
    if asked.only in (None, "api"):
        client = api(API_ROWS, API_CONCURRENCY)
        print("  ".join(f"{name} {value:.1f}" for name, value in client.items()), flush=True)
        found |= client
    print(json.dumps(found))


if __name__ == "__main__":
    main()

"""Generation for a billion prompts on thousands of GPUs over several Ray clusters, as a discrete-event simulation.

    python bench/simulate.py [--prompts 1000000000]

Nothing here runs Ray or a GPU, and every figure is simulated. A cluster has one driver, which hands out units one after
the other at a cost that bench/scale.py measures; replicas, which take some minutes to be ready, hold as many units as
Ray Data gives them and work on some at once; and nodes, which fail. All clusters publish to one store.

A replica is a fluid: what it has in flight shares its engine's tokens per second, and no unit ends before its longest
answer has. Answers' lengths are lognormal. A failed node's units go back to their driver and are done anew.
bench/scale.py checks this against its real runs.
"""

import argparse
import collections
import heapq
import json
import math
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import machine

UNIT_ROWS = 256
SPREAD = 0.6
"""Standard deviation of the logarithm of an answer's length: the longest of 256 is then about four times the mean."""
PUTS_PER_S = 3500.0
"""What S3 takes on one prefix before it answers 503 (AWS, "Best practices design patterns: optimizing Amazon S3")."""
SHAPES = 512
"""Units whose lengths are drawn once; each unit is one of them."""


@dataclass(frozen=True)
class Engine:
    """One replica: GPUs, output tokens/s as published, sequences at once at that rate, seconds until it is ready."""

    name: str
    gpus: int
    tokens_per_s: float
    sequences: int
    start_s: float


ENGINES = {
    "8B": Engine("Llama-3.1-8B bf16, one H100", 1, 12_500, 256, 90),
    "70B": Engine("Llama-3.3-70B FP8, two H200", 2, 2 * 2_587, 256, 180),
    "671B": Engine("DeepSeek-R1 FP8, eight H200", 8, 8 * 1_627, 512, 600),
}
"""Tokens/s: morphllm's page for 8B, TensorRT-LLM's perf overview for the others. Sequences and start-up are assumed."""


@dataclass(frozen=True)
class Plan:
    """What is simulated. Times in seconds; `driver_s` is a driver's CPU per unit, `driver_share` what each replica costs it
    by being there, as a share of its core."""

    engine: Engine
    units: int
    clusters: int = 1
    replicas: int = 500
    answer_tokens: float = 1000.0
    spread: float = SPREAD
    in_flight: int = 8
    driver_s: float = 0.0043
    driver_share: float = 0.0
    start_spread: float = 0.3
    start_each_s: float = 0.05
    interruption_gpu_h: float = 50_000.0
    node_gpus: int = 8
    repair_s: float = 900.0
    shared: bool = False
    """Whether all drivers hold all units, each in an order of its own, and pass over what is published; else each has its
    own share of them."""


@dataclass(frozen=True)
class Result:
    """Seconds from the first replica's being ready to the end; shares are of the whole run."""

    seconds: float
    utilisation: float
    tail: float
    redone: float
    twice: float
    driver_busy: float
    put_wait_s: float
    """Longest wait for the store."""


def shapes(plan: Plan, rng: random.Random) -> list[tuple[float, float]]:
    """Units as (tokens in all, tokens of the longest answer)."""
    mu = math.log(plan.answer_tokens) - plan.spread**2 / 2
    drawn = []
    for _ in range(SHAPES if plan.spread else 1):
        lengths = [rng.lognormvariate(mu, plan.spread) for _ in range(UNIT_ROWS)]
        drawn.append((sum(lengths), max(lengths)))
    return drawn


class Driver:
    """One cluster's driver: which unit is next, and when it gets round to handing it out."""

    def __init__(self, plan: Plan, index: int) -> None:
        self.total, self.back = plan.units, collections.deque[int]()
        self.cost_s = plan.driver_s / max(1e-9, 1 - plan.driver_share * plan.replicas)
        self.free_at = self.busy_s = 0.0
        if (
            plan.shared
        ):  # an order of its own: i -> (a i + b) mod n meets every unit once when a and n have no factor in common
            rng = random.Random(index)
            self.step = next(
                a for a in iter(lambda: rng.randrange(1, plan.units + 1), 0) if math.gcd(a, plan.units) == 1
            )
            self.at, self.left = rng.randrange(plan.units), plan.units
        else:
            self.step, self.at = plan.clusters, index
            self.left = len(range(index, plan.units, plan.clusters))

    def next(self, now: float, published: bytearray) -> tuple[int, float] | None:
        """A unit, and when the replica has it; None when no more are to be handed out."""
        while self.back or self.left:
            if self.back:
                unit = self.back.popleft()
            else:
                unit, self.at, self.left = self.at, (self.at + self.step) % self.total, self.left - 1
            self.free_at = max(now, self.free_at) + self.cost_s
            self.busy_s += self.cost_s
            if not published[unit]:
                return unit, self.free_at
        return None


def simulate(plan: Plan, seed: int = 0, starts: Sequence[float] = ()) -> Result:
    """One run to its end. `starts` are the seconds at which replicas are first ready, where they are known."""
    rng = random.Random(seed)
    drawn = shapes(plan, rng)
    rate, answer_rate = plan.engine.tokens_per_s, plan.engine.tokens_per_s / plan.engine.sequences
    published = bytearray(plan.units)
    drivers = [Driver(plan, i) for i in range(plan.clusters)]
    count = plan.clusters * plan.replicas
    life = [0] * count  # a replica's so-manieth engine: what an earlier one was to do is void
    work_until = [0.0] * count
    running: list[dict[int, float]] = [{} for _ in range(count)]
    waiting: list[collections.deque[tuple[int, float]]] = [collections.deque() for _ in range(count)]
    events: list[tuple[float, int, int, int, int]] = []  # when, what, replica, its life, unit
    READY, ENDS, FAILS = range(3)
    for r in range(count):
        load_s = plan.engine.start_s * rng.lognormvariate(0, plan.start_spread)
        at = starts[r] if starts else (r % plan.replicas) * plan.start_each_s + load_s
        heapq.heappush(events, (at, READY, r, 0, 0))
    began = events[0][0]
    per_node = max(1, plan.node_gpus // plan.engine.gpus)
    failure_s = plan.interruption_gpu_h * 3600 / (count * plan.engine.gpus)
    heapq.heappush(events, (began + failure_s * rng.expovariate(1.0), FAILS, 0, 0, 0))
    left, redone, twice = plan.units, 0.0, 0
    put_at, put_wait, now, first_idle = 0.0, 0.0, began, math.inf

    def put() -> float:
        """When one more object is stored."""
        nonlocal put_at, put_wait
        put_at = max(now, put_at) + 1 / PUTS_PER_S
        put_wait = max(put_wait, put_at - now)
        return put_at

    def feed(r: int) -> None:
        """Give a replica up to twice what it works on, as raystill has Ray Data do, and let it begin what it can."""
        nonlocal first_idle
        while len(waiting[r]) + len(running[r]) < 2 * plan.in_flight:
            given = drivers[r // plan.replicas].next(now, published)
            if given is None:
                break
            waiting[r].append(given)
        while waiting[r] and len(running[r]) < plan.in_flight:
            unit, given_at = waiting[r].popleft()
            if published[unit]:
                continue
            tokens, longest = drawn[unit // plan.clusters % len(drawn)]  # so that clusters' shares are alike
            running[r][unit] = at = max(given_at, put())  # the attempt
            work_until[r] = max(work_until[r], at) + tokens / rate
            heapq.heappush(events, (max(work_until[r], at + longest / answer_rate), ENDS, r, life[r], unit))
        if not running[r]:
            first_idle = min(first_idle, now)

    while left:
        now, what, r, its, unit = heapq.heappop(events)
        if what == FAILS:
            node = rng.randrange(count) // per_node
            for r in range(node * per_node, min(count, (node + 1) * per_node)):
                redone += sum(max(0.0, now - since) for since in running[r].values()) / plan.in_flight
                drivers[r // plan.replicas].back.extend([*running[r], *(unit for unit, _ in waiting[r])])
                running[r].clear()
                waiting[r].clear()
                life[r] += 1
                again = plan.repair_s + plan.engine.start_s * rng.lognormvariate(0, plan.start_spread)
                heapq.heappush(events, (now + again, READY, r, life[r], 0))
            heapq.heappush(events, (now + failure_s * rng.expovariate(1.0), FAILS, 0, 0, 0))
        elif its == life[r]:
            if what == READY:
                work_until[r] = now
            else:
                put()
                del running[r][unit]
                twice += published[unit]
                left -= not published[unit]
                published[unit] = 1
            feed(r)
    seconds = max(now, put_at) - began
    work = sum(drawn[u // plan.clusters % len(drawn)][0] for u in range(plan.units)) / rate
    return Result(
        seconds=seconds,
        utilisation=work / (seconds * count),
        tail=max(0.0, now - first_idle) / seconds,
        redone=redone / (seconds * count),
        twice=twice / plan.units,
        driver_busy=max(d.busy_s for d in drivers) / seconds + plan.driver_share * plan.replicas,
        put_wait_s=put_wait,
    )


def scripted(starts: Sequence[float], units: int, unit_s: float) -> Result:
    """Scripted replicas on one machine, ready at `starts`: a unit takes unit_s, one at a time, and nothing fails."""
    engine = Engine("scripted", 1, UNIT_ROWS / unit_s, UNIT_ROWS, 0.0)
    plan = Plan(engine, units, 1, len(starts), 1.0, 0.0, in_flight=1, interruption_gpu_h=math.inf)
    return simulate(plan, starts=starts)


ONE_RECIPE = 25_000_000 // UNIT_ROWS
CASES = {
    "8B, 500 GPUs": Plan(ENGINES["8B"], 0),
    "8B, 2,000 GPUs, one driver": Plan(ENGINES["8B"], 0, replicas=2000),
    "8B, 2,000 GPUs": Plan(ENGINES["8B"], 0, clusters=4),
    "8B, 4,000 GPUs": Plan(ENGINES["8B"], 0, clusters=8),
    "8B, 4,000 GPUs, one folder": Plan(ENGINES["8B"], 0, clusters=8, shared=True),
    "8B, 4,000 spot GPUs": Plan(ENGINES["8B"], 0, clusters=8, interruption_gpu_h=500.0),
    "70B, 4,000 GPUs": Plan(ENGINES["70B"], 0, clusters=4),
    "671B, 4,000 GPUs": Plan(ENGINES["671B"], 0, clusters=2, replicas=250),
    "671B, 16 units in flight": Plan(ENGINES["671B"], 0, clusters=2, replicas=250, in_flight=16),
    "25 million, 500 GPUs": Plan(ENGINES["8B"], ONE_RECIPE),
    "25 million, two drivers": Plan(ENGINES["8B"], ONE_RECIPE, clusters=2, shared=True),
}
"""Of as many units as are asked for where it says 0."""


def main() -> None:
    """The table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=1_000_000_000)
    asked = parser.parse_args()
    units = asked.prompts // UNIT_ROWS
    print(
        f"{'case':<28} clusters    prompts  days  rows/s  utilisation  tail  redone  twice  driver  put wait s  "
        "(simulated in)"
    )
    found: dict[str, Any] = {"simulated": True, **machine.seen()}
    for name, case in CASES.items():
        started = time.perf_counter()
        plan = replace(case, units=case.units or units)
        seen = simulate(plan)
        print(
            f"{name:<28} {plan.clusters:>8} {plan.units * UNIT_ROWS:>10} {seen.seconds / 86400:>5.2f} "
            f"{plan.units * UNIT_ROWS / seen.seconds:>7.0f} "
            f"{seen.utilisation:>12.3f} {seen.tail:>5.3f} {seen.redone:>7.4f} {seen.twice:>6.4f} {seen.driver_busy:>7.3f} "
            f"{seen.put_wait_s:>11.1f}  ({time.perf_counter() - started:.0f} s)",
            flush=True,
        )
        found[name] = asdict(seen) | {"prompts": plan.units * UNIT_ROWS}
    print(json.dumps(found))


if __name__ == "__main__":
    main()

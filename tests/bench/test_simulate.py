"""bench/simulate.py: what must hold of any run, and a real one as it was measured."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

BENCH = "simulate"
RESULTS = Path(__file__).parents[2] / "bench" / "results"


def small(bench: ModuleType) -> object:
    return bench.Plan(bench.ENGINES["8B"], units=20_000, replicas=40)


@pytest.mark.parametrize("file", sorted(RESULTS.glob("scale-runs-*.json")), ids=lambda file: file.stem)
def test_real_runs_of_ten_rounds_are_met_within_a_fiftieth(bench: ModuleType, file: Path) -> None:
    real = json.loads(file.read_text())
    for run in real["runs"].values():
        simulated = bench.scripted(run["ready_s"], len(run["ended_s"]), real["delay_s"])
        assert simulated.seconds == pytest.approx(run["ended_s"][-1], rel=0.02)


def test_a_driver_hands_out_no_faster_than_it_can(bench: ModuleType) -> None:
    slow = bench.simulate(replace(small(bench), driver_s=1.0))
    assert slow.seconds > 19_000
    assert slow.driver_busy == pytest.approx(1.0, abs=0.02)


def test_failures_cost_what_was_in_flight_and_lose_nothing(bench: ModuleType) -> None:
    never = bench.simulate(replace(small(bench), interruption_gpu_h=math.inf))
    often = bench.simulate(replace(small(bench), interruption_gpu_h=20.0))
    assert never.redone == 0.0
    assert 0.0 < often.redone < 0.05
    assert often.utilisation < never.utilisation


def test_drivers_that_share_a_folder_do_little_twice(bench: ModuleType) -> None:
    shared = bench.simulate(replace(small(bench), clusters=4, replicas=10, in_flight=4, shared=True))
    assert 0.0 < shared.twice < 0.05


def test_engines_are_busy_when_enough_is_in_flight(bench: ModuleType) -> None:
    plan = replace(small(bench), interruption_gpu_h=math.inf)
    few, many = bench.simulate(replace(plan, in_flight=1)), bench.simulate(replace(plan, in_flight=16))
    assert few.utilisation < 0.4
    assert many.utilisation > 0.85

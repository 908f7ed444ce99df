"""bench/simulate.py: what must hold of any run, and a real one as it was measured."""

import importlib
import json
import math
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture
def simulate(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCH)
    return importlib.import_module("simulate")


def small(simulate: ModuleType) -> object:
    return simulate.Plan(simulate.ENGINES["8B"], units=20_000, replicas=40)


def test_real_runs_are_met_within_a_tenth(simulate: ModuleType) -> None:
    real = json.loads((BENCH / "results" / "scale-runs-2026-11-24.json").read_text())
    for run in real["runs"].values():
        simulated = simulate.scripted(run["ready_s"], len(run["ended_s"]), real["delay_s"])
        assert simulated.seconds == pytest.approx(run["ended_s"][-1], rel=0.1)


def test_a_driver_hands_out_no_faster_than_it_can(simulate: ModuleType) -> None:
    slow = simulate.simulate(replace(small(simulate), driver_s=1.0))
    assert slow.seconds > 19_000
    assert slow.driver_busy == pytest.approx(1.0, abs=0.02)


def test_failures_cost_what_was_in_flight_and_lose_nothing(simulate: ModuleType) -> None:
    never = simulate.simulate(replace(small(simulate), interruption_gpu_h=math.inf))
    often = simulate.simulate(replace(small(simulate), interruption_gpu_h=20.0))
    assert never.redone == 0.0
    assert 0.0 < often.redone < 0.05
    assert often.utilisation < never.utilisation


def test_drivers_that_share_a_folder_do_little_twice(simulate: ModuleType) -> None:
    shared = simulate.simulate(replace(small(simulate), clusters=4, replicas=10, shared=True))
    assert 0.0 < shared.twice < 0.05


def test_engines_are_busy_when_enough_is_in_flight(simulate: ModuleType) -> None:
    plan = replace(small(simulate), interruption_gpu_h=math.inf)
    few, many = simulate.simulate(replace(plan, in_flight=1)), simulate.simulate(replace(plan, in_flight=16))
    assert few.utilisation < 0.4
    assert many.utilisation > 0.85

"""The arithmetic of bench/scale.py on runs made up by hand."""

from types import ModuleType

import pytest

BENCH = "scale"


def test_a_perfect_run_is_one_and_a_late_one_less(bench: ModuleType) -> None:
    perfect = [float(10 * (i // 4 + 1)) for i in range(24)]
    assert bench.efficiency(perfect, 4, 10.0) == pytest.approx(1.0)
    assert bench.efficiency([2 * at for at in perfect], 4, 10.0) == pytest.approx(0.5)


def test_a_straggler_is_the_last_rounds_spread(bench: ModuleType) -> None:
    ended = [float(10 * (i // 4 + 1)) for i in range(24)]
    assert bench.tail(ended, 4) == 0.0
    assert bench.tail([*ended[:-1], 65.0], 4) == pytest.approx(5 / 55)


def test_a_rate_that_falls_is_not_flat(bench: ModuleType) -> None:
    assert bench.flatness([float(i) for i in range(1, 101)]) == pytest.approx(1.0)
    slow = [float(i) for i in range(1, 91)] + [90.0 + 2 * i for i in range(1, 11)]
    assert bench.flatness(slow) == pytest.approx(0.5)


def test_a_run_as_it_was_simulated_has_no_error(bench: ModuleType) -> None:
    ended = sorted(10.0 * (round + 1) + 0.1 * replica for replica in range(4) for round in range(6))
    ready = [0.0, 0.1, 0.2, 0.3]
    assert bench.simulation_error(ended, ready, 10.0) < 0.001
    assert bench.simulation_error([*ended[:-1], 1.5 * ended[-1]], ready, 10.0) == pytest.approx(1 / 3, abs=0.01)


def test_api_figures_are_of_the_full_window(bench: ModuleType) -> None:
    def second(at: int, in_flight: int, answered: int) -> object:
        return bench.scale_api.Second(at, in_flight, answered, cpu_s=0.5 * at, rss_mb=100.0 + at)

    ramp = [second(at, 10 * at, 5 * at) for at in range(10)]
    full = [second(at, 100, 45 + 50 * (at - 9)) for at in range(10, 20)]
    seen = bench.scale_api.figures([*ramp, *full, second(20, 30, 700)])
    assert seen["api_concurrency"] == 100
    assert seen["api_requests_per_s"] == 50
    assert seen["api_cpu_ms_per_request"] == 10
    assert seen["api_window_s"] == 9
    assert seen["api_full_after_s"] == 10
    assert seen["api_rss_growth_mb"] == 20

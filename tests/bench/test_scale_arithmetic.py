"""The arithmetic of bench/scale.py on runs made up by hand."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def scale() -> ModuleType:
    path = Path(__file__).parents[2] / "bench" / "scale.py"
    spec = importlib.util.spec_from_file_location("bench_scale", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_perfect_run_is_one_and_a_late_one_less(scale: ModuleType) -> None:
    perfect = [float(10 * (i // 4 + 1)) for i in range(24)]
    assert scale.efficiency(perfect, 4, 10.0) == pytest.approx(1.0)
    assert scale.efficiency([2 * at for at in perfect], 4, 10.0) == pytest.approx(0.5)


def test_a_straggler_is_the_last_rounds_spread(scale: ModuleType) -> None:
    ended = [float(10 * (i // 4 + 1)) for i in range(24)]
    assert scale.tail(ended, 4) == 0.0
    assert scale.tail([*ended[:-1], 65.0], 4) == pytest.approx(5 / 55)


def test_a_rate_that_falls_is_not_flat(scale: ModuleType) -> None:
    assert scale.flatness([float(i) for i in range(1, 101)]) == pytest.approx(1.0)
    slow = [float(i) for i in range(1, 91)] + [90.0 + 2 * i for i in range(1, 11)]
    assert scale.flatness(slow) == pytest.approx(0.5)

"""The table of right and wrong losses in docs/losses.md, with fewer steps."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from raystill.losses import KINDS, TEXT


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    path = Path(__file__).parents[2] / "bench" / "losses.py"
    spec = importlib.util.spec_from_file_location("bench_losses", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.STEPS = 500
    return module


@pytest.mark.parametrize("kind", [k for k in KINDS if k != TEXT])
def test_the_student_gets_the_teachers_mass_on_the_stored_ids(bench: ModuleType, kind: str) -> None:
    p_V = bench.teacher()
    q_V = bench.fitted(bench.ours(kind, bench.top(p_V, bench.K)))
    assert float(q_V[: bench.K].sum()) == pytest.approx(float(p_V[: bench.K].sum()), abs=0.005)
    assert float(q_V[0]) == pytest.approx(float(p_V[0]), abs=0.005)


def test_a_loss_without_the_tail_makes_it_too_sure_or_leaves_its_mass_to_chance(bench: ModuleType) -> None:
    truncated, scaled, both = (
        float(bench.fitted(loss)[: bench.K].sum()) for loss in bench.wrong(bench.teacher()).values()
    )
    assert truncated > 0.95
    assert scaled > 0.95
    assert both < 0.1

"""Cohen's kappa: his own kind of table by hand, and scikit-learn's."""

import numpy as np
import pytest

from raystill.metrics.bootstrap import interval
from raystill.metrics.compare import estimate
from raystill.metrics.kappa import kappa


def table(cells: dict[tuple[str, str], int]) -> tuple[list[str], list[str]]:
    pairs = [pair for pair, n in cells.items() for _ in range(n)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def test_a_table_by_hand() -> None:
    # observed 35/50; expected 0.5 * 0.6 + 0.5 * 0.4 = 0.5
    left, right = table({("y", "y"): 20, ("y", "n"): 5, ("n", "y"): 10, ("n", "n"): 15})
    assert kappa(left, right).point() == pytest.approx(0.4)


def test_full_agreement_is_1_and_chance_is_0() -> None:
    assert kappa(list("aabbc"), list("aabbc")).point() == 1.0
    left, right = table({(a, b): 4 for a in "xy" for b in "xy"})
    assert kappa(left, right).point() == 0.0
    assert kappa(list("ab"), list("ba")).point() == -1.0


def test_who_only_ever_says_one_thing_has_no_kappa() -> None:
    assert estimate(kappa(["a"] * 9, ["a"] * 9), 200) is None
    assert estimate(kappa([], []), 200) is None


def test_it_is_scikit_learns() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(3)
    for labels in (2, 3, 5):
        left = [str(x) for x in rng.integers(labels, size=80)]
        right = [a if rng.random() < 0.6 else str(rng.integers(labels)) for a in left]
        assert kappa(left, right).point() == pytest.approx(sklearn.cohen_kappa_score(left, right))


def test_its_interval_holds_it() -> None:
    left, right = table({("y", "y"): 40, ("y", "n"): 10, ("n", "y"): 20, ("n", "n"): 30})
    found = interval(kappa(left, right), 2000)
    assert found is not None and found.low < 0.4 < found.high
    assert found.high - found.low < 0.5

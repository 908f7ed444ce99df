"""What a store keeps, against the plain formulas over the whole vocabulary."""

import numpy as np
import pytest

from raystill.targets import Sampled, TopK
from raystill.teachers import fidelity

P = np.array([[0.5, 0.25, 0.125, 0.125], [0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25]])
LOG = np.log(P).astype(np.float32)


def divergence(r: np.ndarray, p: np.ndarray) -> float:
    there = r > 0
    return float((r[there] * np.log(r[there] / p[there])).sum())


@pytest.mark.parametrize("cuts", [[], [1], [1, 2]])
def test_top_k_is_restored_with_an_even_tail(cuts: list[int]) -> None:
    ids = np.array([[0, 1], [0, 3], [2, 0]])
    stored = TopK(ids, np.log([[0.5, 0.2], [0.7, 0.1], [0.25, 0.25]]), np.array([0.3, 0.2, 0.5]))
    restored = np.array([[0.5, 0.2, 0.15, 0.15], [0.7, 0.1, 0.1, 0.1], [0.25, 0.25, 0.25, 0.25]])
    found = fidelity.sums(stored, np.split(LOG, cuts))
    assert found.tokens == 3
    assert found.mass == pytest.approx(0.75 + 0.8 + 0.5, rel=1e-6)
    assert found.divergence == pytest.approx(divergence(restored, P), rel=1e-5)


@pytest.mark.parametrize("cuts", [[], [2]])
def test_draws_are_restored_as_they_fell(cuts: list[int]) -> None:
    stored = Sampled(np.array([0, 1, 0, 2, 3]), np.array([3, 1, 4, 2, 2]), np.array([0, 2, 3, 5]))
    restored = np.array([[0.75, 0.25, 0, 0], [1, 0, 0, 0], [0, 0, 0.5, 0.5]])
    found = fidelity.sums(stored, np.split(LOG, cuts))
    assert found.mass == pytest.approx(0.75 + 0.7 + 0.5, rel=1e-6)
    assert found.divergence == pytest.approx(divergence(restored, P), rel=1e-5)


def test_ids_that_cannot_be_take_no_part_of_the_tail() -> None:
    p = np.log(np.array([[0.5, 0.25, 0.25]], np.float32))
    masked = np.concatenate([p, [[-np.inf]]], axis=1).astype(np.float32)
    stored = TopK(np.array([[0]]), np.log([[0.5]]), np.array([0.5]))
    assert fidelity.sums(stored, [masked]).divergence == pytest.approx(0, abs=1e-6)


def test_all_of_a_vocabulary_leaves_no_tail() -> None:
    stored = TopK(np.array([[0, 1, 2, 3]]), LOG[:1], np.array([0.0]))
    assert fidelity.sums(stored, [LOG[:1]]) == fidelity.Sums(1, pytest.approx(1), pytest.approx(0, abs=1e-6))


def test_without_the_whole_the_tail_says_the_mass() -> None:
    stored = TopK(np.array([[0], [0]]), np.log([[0.5], [0.7]]), np.array([0.5, 0.3]))
    assert fidelity.sums_unseen(stored) == fidelity.Sums(2, pytest.approx(1.2), None)

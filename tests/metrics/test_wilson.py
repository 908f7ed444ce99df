import numpy as np
import pytest

from raystill.metrics.wilson import wilson


def test_values_that_everybody_quotes() -> None:
    assert wilson(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)  # the bootstrap's would have no width


def test_nothing_known_is_everything_possible() -> None:
    assert wilson(0.0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("truth", [0.1, 0.5, 0.8])
def test_intervals_cover_the_truth_about_as_often_as_they_say(truth: float) -> None:
    won = np.random.default_rng(3).binomial(30, truth, 4000)
    inside = [low <= truth <= high for low, high in (wilson(n / 30, 30) for n in won)]
    assert 0.92 < np.mean(inside) < 0.98


def test_a_tie_makes_it_wider_than_what_was_drawn() -> None:
    rng = np.random.default_rng(5)
    values = rng.choice([0, 0.5, 1], (4000, 30), p=[0.2, 0.4, 0.4]).mean(axis=1)
    assert np.mean([low <= 0.6 <= high for low, high in (wilson(v, 30) for v in values)]) > 0.95

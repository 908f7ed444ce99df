"""cascade: the cut that asks the teacher least."""

import numpy as np
import pytest

from raystill.metrics.cascade import Case, cuts, least


def test_every_cut_is_what_counting_says() -> None:
    cases = [Case(0.9, True, 1, 1), Case(0.7, True, 1, 0), Case(0.5, True, 0, 1), Case(0.3, False, 0, 1)]
    found = [(c.below, c.sent, c.accuracy.point()) for c in cuts(cases)]
    assert found == [(0.0, 0.25, 0.75), (0.4, 0.25, 0.75), (0.6, 0.5, 1.0), (0.8, 0.75, 0.75)]
    assert least(cuts(cases), 0.75).below == 0.0  # type: ignore[union-attr]
    assert least(cuts(cases), 0.9).below == pytest.approx(0.6)  # type: ignore[union-attr]
    assert least(cuts(cases[2:3]), 0.5) is None


def test_cuts_are_what_the_endpoint_would_do() -> None:
    """Brute force over the rule that answers below the cut, and those that fail the check, go to the teacher."""
    rng = np.random.default_rng(0)
    cases = [
        Case(round(rng.random(), 2), bool(rng.random() < 0.9), int(rng.random() < 0.7), int(rng.random() < 0.9))
        for _ in range(200)
    ]
    for cut in cuts(cases):
        sent = [c.probability < cut.below or not c.passes for c in cases]
        right = [c.teacher if s else c.student for c, s in zip(cases, sent, strict=True)]
        assert cut.sent == pytest.approx(np.mean(sent))
        assert cut.accuracy.point() == pytest.approx(np.mean(right))

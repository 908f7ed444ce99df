import time

import numpy as np
import pytest

from raystill.metrics import Sums, difference, mean, ratio
from raystill.metrics import bootstrap as bootstrap_module
from raystill.metrics.bleu import bleu
from raystill.metrics.bootstrap import interval

RNG = np.random.default_rng(7)
TEACHER = (RNG.random(1000) < 0.9).astype(float)
STUDENT = TEACHER * (RNG.random(1000) < 0.95)


def width(metric: Sums) -> float:
    found = interval(metric, 2000)
    assert found is not None
    return found.high - found.low


def test_a_proportion_has_about_the_normal_interval() -> None:
    p = TEACHER.mean()
    assert width(mean(TEACHER)) == pytest.approx(2 * 1.96 * np.sqrt(p * (1 - p) / 1000), rel=0.1)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(11)
    covered = 0
    for _ in range(200):
        found = interval(mean((rng.random(200) < 0.7).astype(float)), 400)
        assert found is not None
        covered += found.low <= 0.7 <= found.high
    assert 0.90 <= covered / 200 <= 0.99


def test_pairing_narrows_a_difference() -> None:
    assert width(difference(mean(STUDENT), mean(TEACHER))) < 0.6 * width(
        difference(mean(STUDENT), mean(RNG.permutation(TEACHER)))
    )


def test_equal_models_keep_everything_for_sure() -> None:
    assert interval(ratio(mean(TEACHER), mean(TEACHER)), 500) == (1.0, 1.0)


def test_a_ratio_to_nothing_has_no_interval() -> None:
    assert interval(ratio(mean([1, 0]), mean([1, 0])), 500) is None
    assert interval(mean([]), 500) is None


def test_the_seed_decides_and_chunks_cover_all_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = interval(mean(TEACHER), 500)
    assert whole == interval(mean(TEACHER), 500) != interval(mean(TEACHER), 500, seed=1)
    monkeypatch.setattr(bootstrap_module, "CHUNK_CELLS", 64_000)
    assert interval(mean(TEACHER), 500) == whole


def test_two_thousand_resamples_of_a_thousand_rows_take_well_under_a_second() -> None:
    started = time.process_time()
    interval(ratio(mean(STUDENT), mean(TEACHER)), 2000)
    assert time.process_time() - started < 1.0


def test_corpus_metrics_have_intervals_too() -> None:
    found = interval(bleu(["the red rug is here now"] * 9 + ["a b c d e"], ["the red rug is here today"] * 10), 200)
    assert found is not None and found.low < found.high

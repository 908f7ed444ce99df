"""Values against worked numbers and against the reference implementations."""

import random

import numpy as np
import pytest
from rouge_score import rouge_scorer
from sacrebleu.metrics import BLEU, CHRF

from raystill.metrics import difference, mean, ratio
from raystill.metrics.bleu import bleu
from raystill.metrics.bootstrap import interval
from raystill.metrics.chrf import chrf
from raystill.metrics.exact_match import exact_match
from raystill.metrics.macro_f1 import f1, macro_f1
from raystill.metrics.recall_at_rate import recall_at_rate
from raystill.metrics.rouge import rouge_1, rouge_2, rouge_l
from raystill.metrics.token_f1 import token_f1

WORDS = ["order", "the", "Rug", "of", "May", "12", "ships", "today", "well-made", "not"]


def texts(seed: int, rows: int = 40) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(0, 70))) + rng.choice(["", ".", "!"]) for _ in range(rows)]


def test_means_ratios_and_differences() -> None:
    assert mean([1, 0, 0, 1]).point() == 0.5
    assert ratio(mean([1, 0, 1, 1]), mean([1, 1, 1, 1])).point() == 0.75
    assert difference(mean([1, 0]), mean([1, 1])).point() == -0.5
    assert np.isnan(ratio(mean([1]), mean([0])).point())


def test_exact_match_ignores_whitespace_alone() -> None:
    assert exact_match([" a  b", "A b", "a b"], ["a b", "a b", "a b"]).point() == pytest.approx(2 / 3)


def test_bleu_is_sacrebleus() -> None:
    answers, references = texts(1), texts(2)
    assert bleu(answers, references).point() == pytest.approx(BLEU().corpus_score(answers, [references]).score)
    assert bleu(references, references).point() == pytest.approx(100)
    assert bleu([""], ["a b c d e"]).point() == 0


def test_rouge_is_rouge_scores() -> None:
    answers, references = texts(3), texts(4)
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"])
    theirs = [scorer.score(r, a) for a, r in zip(answers, references, strict=True)]
    for ours, name in ((rouge_1, "rouge1"), (rouge_2, "rouge2"), (rouge_l, "rougeL")):
        assert ours(answers, references).rows_RS[:, 0] == pytest.approx([t[name].fmeasure for t in theirs])


def test_rouge_l_knows_other_scripts() -> None:
    assert rouge_l(["Größe über Süden"], ["größe im süden"]).point() == pytest.approx(2 / 3)


def test_macro_f1_by_hand() -> None:
    # a: right 1, answered 2, wanted 2 -> 1/2; b: right 1, answered 1, wanted 2 -> 2/3. "c" is no label of a reference.
    assert macro_f1(["a", "c", "a", "b"], ["a", "a", "b", "b"]).point() == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_each_label_has_its_own_f1_unless_there_are_many() -> None:
    made = f1(["a", "c", "a", "b"], ["a", "a", "b", "b"])
    assert list(made) == ["macro_f1", "f1:a", "f1:b"]
    assert (made["f1:a"].point(), made["f1:b"].point()) == (pytest.approx(1 / 2), pytest.approx(2 / 3))
    many = [str(i) for i in range(30)]
    assert list(f1(many, many)) == ["macro_f1"]


def test_a_label_that_a_resample_lacks_has_no_interval() -> None:
    made = f1(["a", "b"], ["a", "b"])
    assert interval(made["f1:a"], 100) is None
    assert interval(made["macro_f1"], 100) == (1.0, 1.0)


def test_chrf_is_sacrebleus() -> None:
    answers, references = [*texts(5), "Größe", ""], [*texts(6), "Süden", "über"]
    assert chrf(answers, references).point() == pytest.approx(CHRF().corpus_score(answers, [references]).score)
    assert chrf(references, references).point() == pytest.approx(100)
    assert chrf([""], ["abc"]).point() == 0


@pytest.mark.parametrize(
    ("answer", "reference", "value"),
    [
        ("The Eiffel Tower.", "eiffel tower", 1),
        ("in the Eiffel Tower", "Eiffel Tower", 4 / 5),
        ("cat cat", "cat", 2 / 3),
        ("the", "a", 1),
        ("", "Paris", 0),
    ],
)
def test_token_f1_by_hand(answer: str, reference: str, value: float) -> None:
    assert token_f1([answer], [reference]).point() == pytest.approx(value)


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.2, 0.5])
def test_recall_at_a_rate_is_the_best_threshold_that_keeps_to_it(rate: float) -> None:
    rng = np.random.default_rng(7)
    flagged = rng.random(200) < 0.3
    sure = np.clip(np.round(50 * flagged + rng.normal(30, 25, 200)), 0, 100)
    best = 0.0
    for threshold in range(1, 101):
        said = sure >= threshold
        if (said & ~flagged).sum() <= rate * (~flagged).sum():
            best = max(best, (said & flagged).sum() / flagged.sum())
    made = recall_at_rate(sure.tolist(), flagged.tolist(), rate)
    assert made.point() == pytest.approx(best) and 0 < best < 1
    low, high = interval(made, 300) or (1, 0)
    assert low <= best + 0.1 and high >= best


def test_recall_of_yes_and_no_is_all_or_nothing() -> None:
    sure, flagged = [100, 100, 0, 0], [True, False, False, True]
    assert recall_at_rate(sure, flagged, 0.5).point() == 0.5
    assert recall_at_rate(sure, flagged, 0.4).point() == 0
    assert recall_at_rate([0, 0], [True, False], 0.5).point() == 0
    assert np.isnan(recall_at_rate([50], [False], 0.5).point())

"""Values against worked numbers and against the reference implementations."""

import random

import numpy as np
import pytest
from rouge_score import rouge_scorer
from sacrebleu.metrics import BLEU

from raystill.metrics import difference, mean, ratio
from raystill.metrics.bleu import bleu
from raystill.metrics.exact_match import exact_match
from raystill.metrics.macro_f1 import macro_f1
from raystill.metrics.rouge import rouge_l

WORDS = ["order", "the", "Rug", "of", "May", "12", "ships", "today", "well-made", "not"]


def texts(seed: int, rows: int = 40) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(0, 70))) + rng.choice(["", ".", "!"]) for _ in range(rows)]


def test_means_ratios_and_differences() -> None:
    assert mean([1, 0, 0, 1]).point() == 0.5
    assert ratio([1, 0, 1, 1], [1, 1, 1, 1]).point() == 0.75
    assert difference([1, 0], [1, 1]).point() == -0.5
    assert np.isnan(ratio([1], [0]).point())


def test_exact_match_ignores_whitespace_alone() -> None:
    assert exact_match([" a  b", "A b", "a b"], ["a b", "a b", "a b"]).point() == pytest.approx(2 / 3)


def test_bleu_is_sacrebleus() -> None:
    answers, references = texts(1), texts(2)
    assert bleu(answers, references).point() == pytest.approx(BLEU().corpus_score(answers, [references]).score)
    assert bleu(references, references).point() == pytest.approx(100)
    assert bleu([""], ["a b c d e"]).point() == 0


def test_rouge_l_is_rouge_scores() -> None:
    answers, references = texts(3), texts(4)
    scorer = rouge_scorer.RougeScorer(["rougeL"])
    theirs = [scorer.score(r, a)["rougeL"].fmeasure for a, r in zip(answers, references, strict=True)]
    assert rouge_l(answers, references).rows_RS[:, 0] == pytest.approx(theirs)


def test_rouge_l_knows_other_scripts() -> None:
    assert rouge_l(["Größe über Süden"], ["größe im süden"]).point() == pytest.approx(2 / 3)


def test_macro_f1_by_hand() -> None:
    # a: right 1, answered 2, wanted 2 -> 1/2; b: right 1, answered 1, wanted 2 -> 2/3. "c" is no label of a reference.
    assert macro_f1(["a", "c", "a", "b"], ["a", "a", "b", "b"]).point() == pytest.approx((1 / 2 + 2 / 3) / 2)

"""Verdicts to numbers, by hand."""

import pytest

from raystill.metrics.judged import Vote, judged
from raystill.records import Metric, Verdict


def pair(i: int, first: str | None, second: str | None, asked: bool = True) -> list[Verdict]:
    """One row's verdicts, with the student's answer shown first and second."""
    return [
        Verdict(f"r{i}", "student", "teacher", order, said, asked) for order, said in ((True, first), (False, second))
    ]


def accuracy(model: str, right: list[int]) -> list[Metric]:
    return [Metric("t", f"r{i}", model, "accuracy", float(v)) for i, v in enumerate(right)]


def test_orders_that_disagree_are_a_tie_and_half_a_win() -> None:
    verdicts = [
        *pair(0, "model", "model"), *pair(1, "against", "against"), *pair(2, "model", "against"), *pair(3, "tie", "tie"),
        *pair(4, "model", None), *pair(5, "tie", "tie", asked=False),
    ]  # fmt: skip
    (line,) = judged(verdicts, [], [], 200)
    assert dict(line.counts) == {"wins": 1, "ties": 3, "losses": 1, "unread": 1}
    assert line.rate is not None and line.rate.value == pytest.approx((1 + 0.5 * 3) / 5) and line.rate.rows == 5
    assert line.rate.interval is not None and line.rate.interval.low < 0.5 < line.rate.interval.high
    assert line.moved == pytest.approx(1 / 4)  # of the four pairs that were asked and read
    # sides: both of rows 0 and 1, both of row 2 for the answer shown first, and row 4's one verdict
    assert line.first == pytest.approx((1 + 1 + 2 + 1) / 7)
    assert line.agrees == {}


def test_agreement_with_references_is_about_who_of_the_two_was_right() -> None:
    said = ["model", "model", "against", "against", "tie", "tie"]
    verdicts = [v for i, s in enumerate(said) for v in pair(i, s, s)]
    per_row = accuracy("student", [1, 1, 0, 0, 1, 0]) + accuracy("teacher", [0, 0, 1, 1, 1, 0])
    (line,) = judged(verdicts, per_row, [], 200)
    assert line.agrees["references"].value == 1.0 and line.agrees["references"].rows == 6
    (other,) = judged(verdicts, accuracy("student", [1] * 6) + accuracy("teacher", [1] * 6), [], 200)
    assert other.agrees["references"].value == 0.0


def test_peoples_votes_count_whichever_side_they_saw() -> None:
    said = ["model", "against", "tie", "model"]
    verdicts = [v for i, s in enumerate(said) for v in pair(i, s, s)]
    votes = [
        Vote("r0", "student", "teacher", "left"),
        Vote("r1", "student", "teacher", "right"),
        Vote("r2", "teacher", "student", "tie"),
        Vote("r3", "teacher", "student", "right"),
        Vote("r3", "teacher", "baseline", "left"),
        Vote("elsewhere", "student", "teacher", "right"),
    ]
    (line,) = judged(verdicts, [], votes, 200)
    assert line.agrees["people"].value == 1.0 and line.agrees["people"].rows == 4


def test_scores_are_a_mean_and_four_is_right() -> None:
    verdicts = [Verdict(f"r{i}", "student", None, True, s) for i, s in enumerate(["5", "4", "2", "1", None])]
    (line,) = judged(verdicts, accuracy("student", [1, 1, 0, 0, 1]), [], 200)
    assert line.rate is not None and line.rate.value == 3.0 and line.rate.rows == 4
    assert dict(line.counts) == {"1": 1, "2": 1, "4": 1, "5": 1, "unread": 1}
    assert line.agrees["references"].value == 1.0
    assert line.moved is None


def test_a_judge_that_says_nothing_has_no_rate() -> None:
    (line,) = judged([v for i in range(3) for v in pair(i, None, None)], [], [], 200)
    assert line.rate is None and line.counts["unread"] == 3 and line.moved is None

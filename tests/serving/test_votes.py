"""Votes: kept once each, by several writers, and counted by pairs."""

import json
from pathlib import Path

import pytest

from raystill import storage
from raystill.serving.votes import Vote, Votes, pairs, summary

ASKED = [{"role": "user", "content": "Is a hash of one's own a promise?"}]


def vote(preferred: str | None, *models: str, blind: bool = False) -> Vote:
    return Vote(ASKED, {name: f"{name} says so" for name in models or ("teacher", "student")}, preferred, blind=blind)


def test_a_preferred_answer_beats_each_other_and_says_nothing_of_those() -> None:
    found = {(p.left, p.right): p for p in pairs([vote("student", "baseline", "student", "teacher")])}
    assert set(found) == {("baseline", "student"), ("student", "teacher")}
    assert found["baseline", "student"].share == 1.0
    assert found["student", "teacher"].share == 0.0


def test_a_tie_is_half_for_all() -> None:
    (one,) = pairs([vote("student"), vote(None), vote(None), vote("teacher")])
    assert (one.left, one.right) == ("student", "teacher")
    assert (one.left_better, one.ties, one.right_better, one.share) == (1, 2, 1, 0.5)
    low, high = one.interval
    assert low == pytest.approx(1 - high)
    assert 0.1 < low < 0.2


@pytest.mark.parametrize("where", ["disk", "s3"])
def test_votes_of_several_endpoints_are_counted_together(
    where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = storage.join(request.getfixturevalue("s3") if where == "s3" else str(tmp_path), "votes", "support")
    mine, theirs = Votes(url), Votes(url)
    assert summary(mine.all()) == {"votes": 0, "blind": 0, "pairs": []}
    mine.add(vote("student", blind=True))
    mine.add(vote("student", blind=True))  # the same again is another vote
    theirs.add(vote("teacher"))
    assert summary(mine.all()) == summary(theirs.all())
    assert summary(mine.all())["votes"] == 3
    assert summary(mine.all())["blind"] == 2
    kept = json.loads(storage.read(storage.entries(url)[0].url))
    assert kept["messages"] == ASKED
    assert kept["answers"]["student"] == "student says so"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (vote("student", "student"), "2 to 9 answers"),
        (vote(None, *(f"m{i}" for i in range(10))), "2 to 9 answers"),
        (vote("baseline"), "'preferred' is none of the models"),
    ],
)
def test_a_vote_that_means_nothing_says_why(wrong: Vote, says: str) -> None:
    assert says in str(wrong.mistake())


def test_a_good_one_is_no_mistake() -> None:
    assert vote("student").mistake() is None
    assert vote(None).mistake() is None

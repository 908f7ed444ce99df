"""Votes on the playground: which of several answers to one prompt is better. One object each, counted by pairs of models."""

import dataclasses
import datetime
import itertools
import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from raystill import storage
from raystill.metrics.bootstrap import Interval
from raystill.metrics.wilson import wilson

MOST = 9
"""Answers that stand side by side: one key each."""


def place(root: str, recipe: str) -> str:
    """Where a recipe's playground keeps them."""
    return storage.join(root, "votes", recipe)


@dataclass(frozen=True)
class Vote:
    """Answers by model to `messages`, and whose is better; None when they are equally good.

    row is the held-out prompt's id, if it was one. blind says that the names were hidden until the vote.
    """

    messages: list[dict[str, str]]
    answers: dict[str, str]
    preferred: str | None
    row: str | None = None
    blind: bool = False

    def mistake(self) -> str | None:
        """What is wrong with it."""
        if not 2 <= len(self.answers) <= MOST:
            return f"a vote is about 2 to {MOST} answers"
        if self.preferred is not None and self.preferred not in self.answers:
            return "'preferred' is none of the models in 'answers'"
        return None


@dataclass(frozen=True)
class Pair:
    """Two models' votes. `share` is how often the right one is preferred, a tie being half, with its 95 % interval."""

    left: str
    right: str
    left_better: int
    ties: int
    right_better: int
    share: float
    interval: Interval


class Votes:
    """The votes below one folder URL, whoever wrote them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._read: dict[str, Vote] = {}

    def add(self, vote: Vote) -> None:
        """Keep one more. Raises StorageError."""
        name = f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:12]}.json"
        text = json.dumps(dataclasses.asdict(vote), ensure_ascii=False)
        storage.put_if_absent(storage.join(self.url, name), text.encode())

    def all(self) -> list[Vote]:
        """Every vote so far; each is read once. Raises StorageError."""
        for entry in storage.entries(self.url):
            if entry.url not in self._read:
                self._read[entry.url] = Vote(**json.loads(storage.read(entry.url)))
        return list(self._read.values())


def pairs(votes: Iterable[Vote]) -> list[Pair]:
    """Votes by pairs of models. A preferred answer is better than each other one; about those two the vote says nothing."""
    counts: dict[tuple[str, str], list[int]] = {}
    for vote in votes:
        for left, right in itertools.combinations(sorted(vote.answers), 2):
            if vote.preferred in (None, left, right):
                found = counts.setdefault((left, right), [0, 0, 0])
                found[{left: 0, None: 1, right: 2}[vote.preferred]] += 1
    return [_pair(left, right, *of) for (left, right), of in sorted(counts.items())]


def _pair(left: str, right: str, left_better: int, ties: int, right_better: int) -> Pair:
    n = left_better + ties + right_better
    share = (right_better + ties / 2) / n
    return Pair(left, right, left_better, ties, right_better, share, wilson(share, n))


def summary(votes: list[Vote]) -> dict[str, Any]:
    """How many votes there are, how many of them blind, and what they say of each pair."""
    return {
        "votes": len(votes),
        "blind": sum(vote.blind for vote in votes),
        "pairs": [dataclasses.asdict(pair) for pair in pairs(votes)],
    }

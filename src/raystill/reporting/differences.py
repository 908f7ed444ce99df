"""Answers side by side: where student and teacher differ first, with the words in which they do."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from raystill.reporting.findings import Said

SHOWN_CHARS = 1200
"""Longest text of which every word is shown; the rest is counted."""
WORDS = re.compile(r"\s+|\w+|[^\w\s]")


@dataclass(frozen=True)
class Piece:
    """Some words, and whether the other answer lacks them."""

    text: str
    differs: bool


@dataclass(frozen=True)
class Side:
    """One answer, as pieces; `more` counts characters that are not shown."""

    name: str
    pieces: list[Piece]
    more: int
    right: bool | None


@dataclass(frozen=True)
class Pair:
    """One prompt with the teacher's answer (the reference where no teacher was asked) and the student's."""

    id: str
    prompt: str
    reference: str | None
    left: Side
    right: Side


@dataclass(frozen=True)
class Differences:
    """The first pairs that differ, and how many rows there are of each kind."""

    pairs: list[Pair]
    differing: int
    rows: int


def differences(said: Sequence[Said], left: str, right: str, limit: int) -> Differences:
    """Pairs of two models' answers that differ in their words, lost rows first: left right and right wrong.

    A `left` that no answer is of stands for the reference.
    """
    rows = [s for s in said if right in s.answers and (left in s.answers or s.reference is not None)]
    differing = [s for s in rows if _left(s, left).split() != s.answers[right].split()]
    differing.sort(key=lambda s: _loss(s.right.get(left, True), s.right.get(right)))
    return Differences([_pair(s, left, right) for s in differing[:limit]], len(differing), len(rows))


def mark(left: str, right: str) -> tuple[list[Piece], list[Piece]]:
    """Both texts in pieces; a piece that the other text lacks says so."""
    a, b = WORDS.findall(left), WORDS.findall(right)
    pieces: tuple[list[Piece], list[Piece]] = ([], [])
    for kind, a0, a1, b0, b1 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        for side, words in zip(pieces, (a[a0:a1], b[b0:b1]), strict=True):
            if words:
                side.append(Piece("".join(words), kind != "equal"))
    return pieces


def _left(said: Said, left: str) -> str:
    return said.answers.get(left, said.reference or "")


def _loss(left: bool | None, right: bool | None) -> int:
    """Order of pairs: what the student lost, what both have wrong, what it gained, and other words for the same."""
    return {(True, False): 0, (False, False): 1, (False, True): 2}.get((bool(left), bool(right)), 3)


def _pair(said: Said, left: str, right: str) -> Pair:
    texts = _left(said, left), said.answers[right]
    marked = mark(*(t[:SHOWN_CHARS] for t in texts))
    name = left if left in said.answers else "reference"
    sides = [
        Side(n, pieces, max(0, len(text) - SHOWN_CHARS), said.right.get(n))
        for n, pieces, text in zip((name, right), marked, texts, strict=True)
    ]
    prompt = said.prompt if len(said.prompt) <= SHOWN_CHARS else said.prompt[:SHOWN_CHARS] + " …"
    reference = said.reference if left in said.answers else None
    return Pair(said.id, prompt, reference[:SHOWN_CHARS] if reference else None, *sides)

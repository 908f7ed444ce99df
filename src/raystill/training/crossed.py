"""Soft targets of a teacher with another tokenizer, aligned with the student's tokens by the bytes they stand for.

A position is compared where both sides have written the same bytes so far and write the same ones next, as one token each:
where one side goes on with a longer token, their distributions speak about different things, and the student learns from the
text alone. Of the teacher's tokens there, those whose bytes are one token of the student's keep their probability under its
number; the mass of all others joins the tail, so nothing is scaled (the shared part of two vocabularies, peers: GOLD in
TRL, X-Token in NeMo-RL; those merge spans or project instead). The tokens that end an answer are one and the same.
"""

from collections.abc import Sequence
from itertools import takewhile
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from raystill.chat import Encoded
from raystill.losses import ABSENT
from raystill.records import Targets
from raystill.teachers.tokens import Tokens
from raystill.training import soft
from raystill.training.soft import Span


class Writer(soft.Writer):
    """As soft.Writer, for a teacher whose tokens are `theirs` and a student whose tokens are `ours`."""

    def __init__(
        self, file: IO[bytes], support: str, vocabulary: int, theirs: Tokens, ours: Tokens, k: int | None = None
    ) -> None:
        super().__init__(file, support, vocabulary, k)
        self.theirs, self.ours, self.numbers = theirs, ours, shared_numbers(theirs, ours)
        self.listed_mass = self.kept_mass = 0.0

    def __call__(self, found: Targets | None, encoded: Encoded) -> Span:
        """Keep what the teacher thinks at the tokens that both sides write alike; the rows between say nothing."""
        answer = soft.answer_tokens(encoded)
        ids = encoded.input_ids[len(encoded.input_ids) - answer :]
        places = aligned(self.ours, ids, self.theirs, found.completion_ids) if found else []
        if not found or not places:
            return Span()
        at, theirs = np.array(places).T
        listed = soft.decoded(self.support, found.packed, self.k)[theirs]
        held = soft.renumbered(listed, self.numbers)
        self.listed_mass += soft.mass(listed)
        self.kept_mass += soft.mass(held)
        if self.support == "top_k":
            held["logprobs"][~soft.lists(held)] = ABSENT
        elif not self.beyond().any():  # no token of the student's can stand for the other draws
            held["logprobs"][:, -1] = ABSENT
        rows = soft.nothing(int(at.max()) + 1, held)
        rows[at] = held
        return self.keep(rows, sum(encoded.loss_mask) - answer)

    def counts(self) -> dict[str, Any]:
        """Also the share of the listed mass that stands for tokens of the student."""
        return super().counts() | {"carried_mass": self.kept_mass / self.listed_mass if self.listed_mass else 0.0}

    def beyond(self) -> NDArray[np.uint8]:
        """Per id of the student, whether none of the teacher's tokens is it."""
        out = np.ones(self.vocabulary, np.uint8)
        out[self.numbers[self.numbers >= 0]] = 0
        return out


def shared_numbers(theirs: Tokens, ours: Tokens) -> NDArray[np.int32]:
    """The student's id of each of the teacher's tokens; -1 for those that the student does not have as one."""
    mine, yours = ours.numbers(), theirs.numbers()
    numbers = np.full(len(theirs.text), -1, np.int32)
    for text, i in yours.items():
        numbers[i] = mine.get(text, -1)
    numbers[theirs.stop] = ours.stop
    return numbers


def aligned(ours: Tokens, our_ids: Sequence[int], theirs: Tokens, their_ids: Sequence[int]) -> list[tuple[int, int]]:
    """Places in two tokenizations of one answer where both write the same bytes as one token, behind the same bytes."""
    (our_text, our_ends), (their_text, their_ends) = _read(ours, our_ids), _read(theirs, their_ids)
    # A store keeps the space that a tokenizer or a teacher put before an answer; a token with it stands for other bytes.
    spare = [len(text) - len(text.lstrip()) for text in (our_text, their_text)]
    spare = [0, 0] if our_text[: spare[0]] == their_text[: spare[1]] else spare
    our_text, their_text = our_text[spare[0] :], their_text[spare[1] :]
    differ = next((i for i, (a, b) in enumerate(zip(our_text, their_text, strict=False)) if a != b), None)
    same = min(len(our_text), len(their_text)) if differ is None else differ
    spans = {span: i for i, span in enumerate(_spans(our_ends, spare[0])) if 0 <= span[0] < span[1] <= same}
    places = [(spans[span], i) for i, span in enumerate(_spans(their_ends, spare[1])) if span in spans]
    stops = [list(ids[len(ends) : len(ends) + 1]) for ids, ends in ((our_ids, our_ends), (their_ids, their_ends))]
    if our_text == their_text and stops == [[ours.stop], [theirs.stop]]:
        places.append((len(our_ends), len(their_ends)))
    return places


def _read(tokens: Tokens, ids: Sequence[int]) -> tuple[bytes, list[int]]:
    """The bytes of an answer up to its first token that is no text, and where each of its tokens ends in them."""
    held = list(takewhile(lambda t: t is not None, (tokens.text[i] if i < len(tokens.text) else None for i in ids)))
    return b"".join(t or b"" for t in held), [int(n) for n in np.cumsum([len(t or b"") for t in held])]


def _spans(ends: Sequence[int], spare: int) -> list[tuple[int, int]]:
    return [(start - spare, end - spare) for start, end in zip([0, *ends], ends, strict=False)]

"""Soft targets as a trainer reads them: decoded once, one row of ids and log-probabilities per supervised token.

A teacher's targets belong to a text in its tokenizer's ids. The student's answer is aligned with them id by id: from the
first difference on (another stop token, an answer without one) the student learns from the text alone. `crossed` does it
for a student with another tokenizer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from raystill import targets
from raystill.artifacts import File, Table, decode
from raystill.chat import Encoded
from raystill.errors import DataError, ModelError
from raystill.losses import ABSENT, LEAST_TAIL
from raystill.records import Targets

FILE = "soft.bin"
LOG_LEAST_TAIL = np.float32(np.log(np.float32(LEAST_TAIL)))

BEYOND = "beyond.bin"
"""uint8 per id of the student: 1 for those that draws of a teacher with another tokenizer cannot name."""

Key = tuple[str, str, int]


@dataclass(frozen=True)
class Span:
    """Targets of one example: rows `start` to `start + count` of the file, for its supervised tokens from `first` on."""

    start: int = 0
    first: int = 0
    count: int = 0


def record(k: int) -> np.dtype[Any]:
    """One supervised token's targets: K ids, and K + 1 log-probabilities with the tail last."""
    return np.dtype([("ids", "<i4", (k,)), ("logprobs", "<f4", (k + 1,))])


class Writer:
    """Appends examples' targets to a file; counts its rows, those that say something, and those whose tail of 0 was raised."""

    def __init__(self, file: IO[bytes], support: str, vocabulary: int, k: int | None = None) -> None:
        self.file, self.support, self.vocabulary, self.k = file, support, vocabulary, k
        self.rows = self.saying = self.raised_tails = 0

    def __call__(self, found: Targets | None, encoded: Encoded) -> Span:
        """Keep what a teacher thinks of an example's answer, as far as their ids agree."""
        first, count = aligned(encoded, found.completion_ids if found else [])
        if not found or not count:
            return Span()
        return self.keep(within(decoded(self.support, found.packed, self.k)[:count], self.vocabulary), first)

    def keep(self, rows: NDArray[Any], first: int) -> Span:
        """Append rows that belong to an example's supervised tokens from `first` on."""
        self.raised_tails += int((rows["logprobs"][:, -1] == LOG_LEAST_TAIL).sum())
        self.saying += int(says(rows).sum())
        self.file.write(rows.tobytes())
        self.rows += len(rows)
        return Span(self.rows - len(rows), first, len(rows))

    def counts(self) -> dict[str, Any]:
        """What the stage counts of them."""
        return {"with_targets": self.saying, "raised_tails": self.raised_tails}


def alone(encoded: Encoded, span: Span) -> tuple[Encoded, Span]:
    """The example with loss on the tokens that have targets, and on no others."""
    supervised = np.flatnonzero(encoded.loss_mask)
    mask = np.zeros(len(encoded.loss_mask), bool)
    mask[supervised[span.first : span.first + span.count]] = True
    return replace(encoded, loss_mask=mask.tolist()), replace(span, first=0)


def check(table: Table, examples: Table) -> None:
    """Raise DataError for targets of other examples."""
    if table.manifest is None or table.manifest.inputs.get("examples") != examples.fingerprint:
        raise DataError(
            f"the soft targets in {table.url} were scored for other examples than those in {examples.url}; "
            "score these, or train without targets (train.loss.kind: cross_entropy)"
        )


def of_part(table: Table, part: File) -> dict[Key, Targets]:
    """The targets of one part of the examples."""
    path = table.facts["parts"][part.path]
    found = decode(Targets, table.read(path), f"{table.url}/{path}")
    return {(t.id, t.teacher, t.sample_index): t for t in found}


def of_top_k(packed: bytes, k: int | None = None) -> NDArray[Any]:
    """Records of packed top-k targets, cut to the k likeliest where there are more: the others join the tail."""
    held = targets.unpack_topk(packed)
    ids_TK, logprobs_TK = held.ids_TK[:, :k], held.logprobs_TK[:, :k]
    tail_T = held.tail_T + np.exp(held.logprobs_TK[:, ids_TK.shape[1] :]).sum(1)
    rows = np.empty(len(ids_TK), record(ids_TK.shape[1]))
    rows["ids"], rows["logprobs"][:, :-1] = ids_TK, logprobs_TK
    rows["logprobs"][:, -1] = np.log(np.where(tail_T > 0, tail_T, LEAST_TAIL))
    return rows


def of_draws(packed: bytes) -> NDArray[Any]:
    """Records of packed draws: each drawn id with its share. Fewer ids than draws leave classes that are ABSENT."""
    held = targets.unpack_sampled(packed)
    distinct_T = np.diff(held.offsets_T1)
    draws = int(held.counts_N[: held.offsets_T1[1]].sum())
    rows = np.empty(len(distinct_T), record(draws))
    rows["logprobs"] = ABSENT
    rows["ids"] = held.ids_N[held.offsets_T1[:-1], None]
    row_N = np.repeat(np.arange(len(distinct_T)), distinct_T)
    column_N = np.arange(len(row_N)) - held.offsets_T1[row_N]
    rows["ids"][row_N, column_N] = held.ids_N
    rows["logprobs"][row_N, column_N] = np.log(held.counts_N / draws)
    return rows


def decoded(support: str, packed: bytes, k: int | None = None) -> NDArray[Any]:
    """Records of packed targets; those of top_k cut to k."""
    return of_top_k(packed, k) if support == "top_k" else of_draws(packed)


def within(rows: NDArray[Any], vocabulary: int) -> NDArray[Any]:
    """The records with ids that the student lacks (rows that pad a larger embedding) counted among all others."""
    highest = int(rows["ids"].max(initial=0))
    if highest >= vocabulary:
        rows = renumbered(rows, np.where(np.arange(highest + 1) < vocabulary, np.arange(highest + 1), -1))
        if not lists(rows).all():
            raise ModelError(
                f"the teacher's likeliest tokens have ids of {vocabulary} and above, which the student's embedding lacks; "
                "take a student with the teacher's tokenizer, or train.loss.kind: cross_entropy"
            )
    return rows


def renumbered(rows: NDArray[Any], numbers: NDArray[Any]) -> NDArray[Any]:
    """The records with ids[i] as numbers[ids[i]]; those whose number is below 0 are counted among all others.

    Listed mass and tail still sum to one.
    """
    rows = rows.copy()
    ids_TK = numbers[rows["ids"]]
    outside_TK = (ids_TK < 0) & (rows["logprobs"][:, :-1] > ABSENT)
    changed_T = outside_TK.any(1)
    mass_T = (np.exp(rows["logprobs"][:, :-1].astype(np.float64)) * outside_TK).sum(1)
    tail_T = np.exp(rows["logprobs"][:, -1].astype(np.float64)) + mass_T
    rows["logprobs"][:, :-1][outside_TK] = ABSENT
    raised_T = np.log(np.maximum(tail_T, LEAST_TAIL))
    rows["logprobs"][:, -1] = np.where(changed_T, raised_T, rows["logprobs"][:, -1])
    listed_TK = rows["logprobs"][:, :-1] > ABSENT
    some_T = ids_TK[np.arange(len(rows)), listed_TK.argmax(1)]
    rows["ids"] = np.where(listed_TK, ids_TK, np.maximum(some_T, 0)[:, None])
    return rows


def nothing(tokens: int, like: NDArray[Any]) -> NDArray[Any]:
    """So many records that say nothing: all is ABSENT, the tail too."""
    rows = np.zeros(tokens, like.dtype)
    rows["logprobs"] = ABSENT
    return rows


def says(rows: NDArray[Any]) -> NDArray[np.bool_]:
    """Which records say anything."""
    said_T: NDArray[np.bool_] = np.any(rows["logprobs"] > ABSENT, axis=1)
    return said_T


def mass(rows: NDArray[Any]) -> float:
    """Probability that the records' ids hold, summed over records."""
    return float(np.exp(rows["logprobs"][:, :-1].astype(np.float64)).sum())


def lists(rows: NDArray[Any]) -> NDArray[np.bool_]:
    """Which records list any id."""
    listed_T: NDArray[np.bool_] = np.any(rows["logprobs"][:, :-1] > ABSENT, axis=1)
    return listed_T


def aligned(encoded: Encoded, completion_ids: Sequence[int]) -> tuple[int, int]:
    """Where among an example's supervised tokens its last answer begins, and for how many tokens it is `completion_ids`."""
    answer = answer_tokens(encoded)
    ours = np.asarray(encoded.input_ids[len(encoded.input_ids) - answer :])
    shared = min(answer, len(completion_ids))
    differ = np.flatnonzero(ours[:shared] != np.asarray(completion_ids[:shared]))
    return sum(encoded.loss_mask) - answer, int(differ[0]) if len(differ) else shared


def answer_tokens(encoded: Encoded) -> int:
    """Tokens of an example's last answer."""
    answer = 0
    while answer < len(encoded.loss_mask) and encoded.loss_mask[-1 - answer]:
        answer += 1
    return answer


def read(path: Path, rows: int) -> NDArray[Any]:
    """So many records, memory-mapped; K follows from the file's size."""
    k = (path.stat().st_size // rows // 4 - 1) // 2
    records: NDArray[Any] = np.memmap(path, record(k), "r")
    return records

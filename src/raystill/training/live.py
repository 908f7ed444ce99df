"""What a teacher beside the student is shown: its own view of the prompt, then the answer's tokens as the student learns them.

So both sides speak about the same tokens wherever their prompts differ. P = tokens of the teacher's view, A = tokens of the
answer, N = supervised positions of a micro-batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from raystill import chat, engine, recipe
from raystill.chat import Encoded
from raystill.errors import ModelError
from raystill.records import Example
from raystill.training.documents import packed
from raystill.training.soft import Span, answer_tokens

FILE = "seen.bin"
"""int32: for each example the number of its ids, then P + A ids."""


@dataclass(frozen=True)
class Pair:
    """One example's answer on both sides, whose tokens stand at these places of a packed row."""

    supervised: slice
    """Among the micro-batch's N positions; as many as the answer has tokens, each predicting one of them."""
    ours: slice
    theirs: slice
    """Up to the last position that predicts a token of the answer."""
    shared: int
    """Tokens before that one which both sides read alike, counted from the end and less than either side has."""


@dataclass(frozen=True)
class View:
    """A micro-batch as the teacher sees it, in one packed row."""

    inputs: dict[str, Any]
    columns_N: Tensor
    """The teacher's position beside each supervised one of the student's; 0 where it has none."""
    given_N: Tensor
    """1 where it has one."""
    everywhere: bool
    pairs: list[Pair]


class Writer:
    """Appends what the teacher is shown to a file. Raises ModelError for a student with another tokenizer."""

    def __init__(self, file: IO[bytes], teacher: recipe.Teacher, folder: str, student: chat.Tokenizer) -> None:
        self.file, self.teacher = file, teacher
        self.tokenizer, self.context = chat.load_tokenizer(folder), engine.context_length(folder)
        if chat.fingerprint(self.tokenizer) != chat.fingerprint(student):
            raise ModelError(
                "a live teacher is compared with the student token by token, and the student has another tokenizer; "
                "take train.teacher: stored with score: {k: 50}, which maps the teacher's tokens to the student's"
            )
        # Where the two templates end a turn differently, the teacher has nothing to say about the student's stop token.
        self.unsaid = int(chat.stop_id(self.tokenizer) != chat.stop_id(student))
        self.written = self.shown = 0

    def __call__(self, example: Example, encoded: Encoded) -> Span:
        """Keep an example; an empty span where it does not fit the teacher's context, or has no answer to speak of."""
        before = chat.view(example.messages[: max(example.loss_turns)], self.teacher.system, self.teacher.examples)
        prompt = chat.prompt_ids(self.tokenizer, before, example.tools, self.teacher.chat_template_kwargs)
        answer = answer_tokens(encoded)
        count = answer - self.unsaid
        if len(prompt) + count > self.context or count < 1:
            return Span()
        first_id = len(encoded.input_ids) - answer
        ids = [*prompt, *encoded.input_ids[first_id : first_id + count]]
        self.file.write(np.array([len(ids), *ids], "<i4").tobytes())
        self.written += len(ids) + 1
        self.shown += count
        return Span(self.written - len(ids) - 1, sum(encoded.loss_mask) - answer, count)

    def counts(self) -> dict[str, int]:
        """What the stage counts of them."""
        return {"with_targets": self.shown}


def read(path: Path) -> NDArray[np.int32]:
    """What a Writer wrote, memory-mapped."""
    values: NDArray[np.int32] = np.memmap(path, "<i4", "r")
    return values


def view(
    seen: NDArray[np.int32],
    ours: Sequence[NDArray[np.int32]],
    spans_E3: NDArray[np.int64],
    counts: Sequence[int],
    device: torch.device,
) -> View:
    """The teacher's side of some examples: `ours` are the student's ids, `counts` each one's supervised tokens."""
    columns_N, given_N = np.zeros(sum(counts), np.int64), np.zeros(sum(counts), bool)
    befores = np.cumsum([0, *counts])
    starts = np.cumsum([0, *(len(ids) - 1 for ids in ours)])
    spoken = [(i, *map(int, span)) for i, span in enumerate(spans_E3) if span[2]]
    shown = {i: seen[start + 1 : start + 1 + seen[start]] for i, start, *_ in spoken}
    # Documents of a packed row lie longest first, and the two sides' lengths may rank differently.
    spoken.sort(key=lambda s: -len(shown[s[0]]))
    rows, pairs, at = [], [], 0
    for i, _, first, count in spoken:
        row = shown[i][:-1]
        of_answer = slice(int(befores[i]) + first, int(befores[i]) + first + count)
        columns_N[of_answer], given_N[of_answer] = at + len(row) - count + np.arange(count), True
        # Whatever the student adds behind the tokens that the teacher speaks about is left out.
        kept = ours[i][: len(ours[i]) - 1 - (counts[i] - first - count)]
        mine = slice(int(starts[i]), int(starts[i]) + len(kept))
        pairs.append(Pair(of_answer, mine, slice(at, at + len(row)), _shared(kept, row)))
        rows.append(row)
        at += len(row)
    rows = rows or [np.zeros(1, np.int32)]
    inputs = {
        "input_ids": torch.as_tensor(np.concatenate(rows).astype(np.int64)[None]).to(device),
        "position_ids": torch.as_tensor(np.concatenate([np.arange(len(r)) for r in rows])[None]).to(device),
        "documents": packed([len(r) for r in rows], device),
        "use_cache": False,
    }
    given = torch.as_tensor(given_N).to(device, torch.float32)
    return View(inputs, torch.as_tensor(columns_N).to(device), given, bool(given_N.all()), pairs)


def _shared(ours: NDArray[np.int32], theirs: NDArray[np.int32]) -> int:
    """Tokens at the end that both sides have in common, at least one before them left out on either side."""
    most = min(len(ours), len(theirs)) - 1
    differ = np.flatnonzero(ours[len(ours) - most :][::-1] != theirs[len(theirs) - most :][::-1])
    return int(differ[0]) if len(differ) else most

"""One scoring replica: takes a unit of examples, publishes their soft targets, hands back only counts.

The teacher scores any text, its own or another's: the example's prompt as the teacher sees it, then the answer's tokens in
the teacher's own tokenizer, ended by its stop token.
"""

import collections
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from raystill import artifacts, chat, plugins, recipe, staging, storage, targets
from raystill.errors import ModelError, RaystillError
from raystill.records import Example, Ids, Targets
from raystill.teachers import fidelity
from raystill.teachers.fidelity import Sums
from raystill.teachers.units import Done, StartUp, Unit, answer_batch

KINDS = {
    "transformers": "raystill.teachers.forward:Forward",
    "vllm": "raystill.teachers.prompt_logprobs:PromptLogprobs",
}
TOO_LONG = "longer than the teacher's context"
PROBE_ROWS = 2
"""Rows of a unit whose targets are compared with the teacher's. For the whole distribution each costs a second forward pass,
1% of a unit's work for two of 256; vLLM does not give it. Rows lie in the order of a hash: the first are a random sample."""


@dataclass(frozen=True)
class Asked:
    """Token ids of one prompt and of its answer, T of them."""

    prompt_ids: list[int]
    completion_ids: list[int]
    further: tuple[list[int], ...] = ()
    """The prompt as the other teachers of a mixture see it."""

    def seen_by(self, teacher: int) -> "Asked":
        """The same answer behind one teacher's view of the prompt."""
        return Asked(self.further[teacher - 1] if teacher else self.prompt_ids, self.completion_ids)


class Engine(Protocol):
    """What a scorer asks of an engine."""

    vocabulary: int
    context: int
    """Tokens of the longest row that the model takes."""

    def __init__(self, score: recipe.Score, teacher: recipe.Teacher, model: str) -> None: ...

    async def distributions(self, rows: Sequence[Asked]) -> list[targets.TopK | targets.Sampled]:
        """For each row what the teacher thinks at its T positions, in the order of the rows.

        Raises ResourceError when this machine's memory does not take one: another machine's may.
        """

    def dense(self, row: Asked) -> Iterator[npt.NDArray[np.float32]] | None:
        """The row's whole log-distributions, float32[C, V] at a time, T in all; None where the engine does not give them."""


class Scorer:
    """An engine and its units; the class of Ray Data's actors. `tokenizers` are those of whoever wrote, by teacher."""

    def __init__(
        self,
        score: Mapping[str, Any],
        teacher: Mapping[str, Any],
        model: artifacts.Checkpoint,
        tokenizers: Mapping[str, str],
        further: Sequence[tuple[Mapping[str, Any], artifacts.Checkpoint]] = (),
    ) -> None:
        self.score = recipe.Score.model_validate(score)
        self.teachers = [recipe.Teacher.model_validate(block) for block in (teacher, *(block for block, _ in further))]
        self.broken: RaystillError | None = None
        self.start_up = StartUp()
        try:
            folders = [staging.staged(m) for m in (model, *(m for _, m in further))]
            self.start_up.mark("weights")
            self.tokenizers = [chat.load_tokenizer(folder) for folder in folders]
            _check_alike(self.tokenizers)
            self.own = {name for name, mark in tokenizers.items() if mark == chat.fingerprint(self.tokenizers[0])}
            load = plugins.load(self.score.kind, KINDS, "score")
            engines = [load(self.score, t, folder) for t, folder in zip(self.teachers, folders, strict=True)]
            self.engine: Engine = engines[0] if len(engines) == 1 else _mixed(self.score, engines)
            self.start_up.mark("engine")
        except RaystillError as e:  # told with the first unit: an actor that cannot be made loses what its error was
            self.broken = e

    async def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Ray Data's side, see `units.answer_batch`."""
        return await answer_batch(self.run, batch, self.start_up)

    async def run(self, unit: Unit) -> Done:
        """Score and publish one unit; the first publisher wins, and its counts are returned."""
        if self.broken:
            raise self.broken
        if storage.exists(unit.url):  # another driver's, or ours before a restart
            return scored(unit)
        examples = artifacts.decode(Example, unit.read(), unit.source)
        rejected: collections.Counter[str] = collections.Counter()
        asked = [(example, self._asked(example)) for example in examples]
        fit = []
        for example, ids in asked:
            # vLLM wants room for one token more
            if max(map(len, (ids.prompt_ids, *ids.further))) + len(ids.completion_ids) >= self.engine.context:
                rejected[TOO_LONG] += 1
            else:
                fit.append((example, ids))
        rows, probed = list[Targets](), list[Sums]()
        for (example, ids), found in zip(fit, await self.engine.distributions([a for _, a in fit]), strict=True):
            try:
                packed = _packed(found, self.engine.vocabulary)
            except ValueError as e:
                rejected[f"no distribution: {e}"] += 1
                continue
            if len(rows) < PROBE_ROWS:
                probed.append(self._probe(ids, packed))
            key = (example.id, example.teacher, example.sample_index, example.split)
            rows.append(Targets(*key, Ids(ids.completion_ids), packed))
        counts = {
            "rows": len(rows),
            "tokens": sum(len(row.completion_ids) for row in rows),
            "probed": [vars(sums) for sums in probed],
            "errors": dict(rejected),
        }
        storage.put_if_absent(unit.url, artifacts.encode(Targets, rows, {"counts": json.dumps(counts)}))
        return scored(unit)

    def _probe(self, ids: Asked, packed: bytes) -> Sums:
        """What the stored bytes keep of what the teacher thinks."""
        dense = self.engine.dense(ids)
        if dense is None:
            return fidelity.sums_unseen(targets.unpack_topk(packed))
        sampled = self.score.support == "sampled"
        return fidelity.sums(targets.unpack_sampled(packed) if sampled else targets.unpack_topk(packed), dense)

    def _asked(self, example: Example) -> Asked:
        """The example's ids as this teacher sees them; its own answers' ids are taken as it wrote them."""
        *before, answer = example.messages
        views = [chat.view(before, t.system, t.examples) for t in self.teachers]
        prompt, *further = (
            chat.prompt_ids(tokenizer, view, example.tools, t.chat_template_kwargs)
            for tokenizer, view, t in zip(self.tokenizers, views, self.teachers, strict=True)
        )
        given = example.completion_ids if example.teacher in self.own else None
        if given:
            return Asked(prompt, list(given), tuple(further))
        encoded = chat.encode(self.tokenizers[0], [*views[0], answer], [len(views[0])], None, example.tools)
        ids = [i for i, learnt in zip(encoded.input_ids, encoded.loss_mask, strict=True) if learnt]
        return Asked(prompt, ids, tuple(further))


def _mixed(score: recipe.Score, engines: Sequence[Any]) -> Engine:
    from raystill.teachers.mixture import Mixture

    return Mixture(score, engines)


def _check_alike(tokenizers: Sequence[chat.Tokenizer]) -> None:
    """Raise ModelError for teachers of a mixture that do not write in the same tokens."""
    for differ in (chat.fingerprint, chat.stop_id):
        if len({differ(t) for t in tokenizers}) > 1:
            what = "number their tokens" if differ is chat.fingerprint else "end an answer"
            raise ModelError(
                f"the teachers of score.mixture {what} differently, so their distributions are about different things; mix "
                "teachers of one family, or remove mixture"
            )


def scored(unit: Unit) -> Done:
    """What a published unit holds, read back and verified."""
    data, _ = unit.outcome(Targets)
    said = pq.read_schema(io.BytesIO(data)).metadata[b"counts"]
    counts = json.loads(said)
    return Done(artifacts.describe(unit.name, data, counts["rows"]), counts)


def _packed(found: targets.TopK | targets.Sampled, vocabulary: int) -> bytes:
    if isinstance(found, targets.TopK):
        return targets.pack_topk(*found, vocabulary)
    return targets.pack_sampled(*found, vocabulary)

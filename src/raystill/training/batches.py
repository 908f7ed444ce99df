"""Which examples a step learns from, and as which tensors. No randomness but (seed, epoch), no state but the step.

Every worker holds the same memory-mapped tokens and works out the same plan, so workers need not speak to each other about
data, and a resumed run continues exactly where it stopped. N = supervised positions of a micro-batch, T = tokens of its row,
R x L = rows and their length where nothing is packed, S = supervised tokens with soft targets.
"""

import hashlib
import tempfile
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from raystill import storage
from raystill.chat import Encoded
from raystill.training import live, soft
from raystill.training.documents import packed
from raystill.training.objective import Soft

FILE = "tokens.arrow"
SCHEMA = pa.schema(
    [
        ("split", pa.string()),
        ("input_ids", pa.large_list(pa.int32())),
        ("loss_mask", pa.large_list(pa.uint8())),
        ("weight", pa.float64()),
        ("soft", pa.list_(pa.int64(), 3)),
    ]
)


@dataclass(frozen=True)
class Corpus:
    """Tokenised examples of one split."""

    ids: NDArray[np.int32]
    mask: NDArray[np.uint8]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    weights: NDArray[np.float64]
    spans_E3: NDArray[np.int64]
    """Each example's `soft.Span`."""
    soft_S: NDArray[Any] | None
    """`soft.record` of each token that has targets; None where the loss needs none."""
    seen: NDArray[np.int32] | None = None
    """What a live teacher is shown (`live.Writer`); None where there is none."""
    beyond_V: NDArray[np.uint8] | None = None
    """`soft.BEYOND`; None where every id can be named."""

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens that go through the model, per example: the last one is only ever predicted."""
        return self.ends - self.starts - 1


@dataclass(frozen=True)
class Position:
    """Where in the stream of shuffled epochs a step begins."""

    epoch: int
    position: int


@dataclass(frozen=True)
class Micro:
    """One forward pass of one worker: the model's arguments, and what its logits must predict."""

    inputs: Mapping[str, Any]
    rows_N: Tensor
    columns_N: Tensor
    """Row and column of each supervised position."""
    labels_N: Tensor
    weights_N: Tensor
    soft: Soft | None
    view: live.View | None
    """The teacher's side, where it is live."""
    tokens: int


def store(url: str, examples: Iterable[tuple[str, Encoded, float, soft.Span]]) -> None:
    """Keep tokenised (split, example, weight, span) of a run as one Arrow file of a single batch: reading it copies nothing."""
    columns: list[list[Any]] = [[], [], [], [], []]
    for split, encoded, weight, span in examples:
        ids, mask = np.asarray(encoded.input_ids, np.int32), np.asarray(encoded.loss_mask, np.uint8)
        for column, value in zip(columns, (split, ids, mask, weight, astuple(span)), strict=True):
            column.append(value)
    batch = pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_batch(batch)
    storage.put_if_absent(storage.join(url, FILE), sink.getvalue().to_pybytes())


def fetch(url: str) -> dict[str, Corpus]:
    """The stored corpora by split, on this machine; remote ones are copied once per machine."""
    if not storage.is_s3(url):
        return read(Path(url))
    cache = Path(tempfile.gettempdir()) / "raystill-tokens"
    cache.mkdir(parents=True, exist_ok=True)
    return read(storage.download(url, cache / hashlib.sha256(url.encode()).hexdigest()[:16]))


def read(folder: Path) -> dict[str, Corpus]:
    """The corpora by split, memory-mapped: workers of one machine share the pages."""
    batch = pa.ipc.open_file(pa.memory_map(str(folder / FILE))).get_batch(0)
    split, ids, mask, weight, span = batch.columns
    starts, ends = (o.astype(np.int64) for o in (ids.offsets.to_numpy()[:-1], ids.offsets.to_numpy()[1:]))
    flat_ids, flat_mask = ids.values.to_numpy(), mask.values.to_numpy()
    names = np.asarray(split.to_pylist(), dtype=object)
    weights, spans_E3 = weight.to_numpy(), span.values.to_numpy().reshape(-1, 3)
    with_targets = spans_E3[:, [0, 2]].sum(1).max(initial=0)
    seen = live.read(folder / live.FILE) if (folder / live.FILE).exists() else None
    soft_S = soft.read(folder / soft.FILE, with_targets) if with_targets and seen is None else None
    beyond_V = np.fromfile(folder / soft.BEYOND, np.uint8) if (folder / soft.BEYOND).exists() else None
    return {
        str(name): Corpus(flat_ids, flat_mask, starts[of], ends[of], weights[of], spans_E3[of], soft_S, seen, beyond_V)
        for name in dict.fromkeys(names)
        for of in [names == name]
    }


def steps(examples: int, epochs: float, batch_size: int) -> int:
    """Optimizer steps of a whole run; the last batch may be smaller."""
    return max(1, -(-round(examples * epochs) // batch_size))


def position(examples: int, batch_size: int, step: int) -> Position:
    """Where step (from 0) begins."""
    return Position(*divmod(step * batch_size, examples))


def batch(examples: int, epochs: float, batch_size: int, seed: int, step: int) -> NDArray[np.int64]:
    """Indices of the examples of a step (from 0): a slice of the endless stream of shuffled epochs."""
    first = step * batch_size
    last = min(first + batch_size, max(1, round(examples * epochs)))
    at = np.arange(first, last)
    order = [_shuffled(examples, seed, epoch) for epoch in range(first // examples, (last - 1) // examples + 1)]
    taken: NDArray[np.int64] = np.concatenate(order)[at - first // examples * examples]
    return taken


@lru_cache(maxsize=2)
def _shuffled(examples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(examples)


def deal(lengths: Sequence[int], workers: int, micro_tokens: int, packing: bool) -> list[list[list[int]]]:
    """Share a global batch: per worker, equally many micro-batches, each a list of places in `lengths`.

    Packed, longest first to the lightest micro-batch keeps workers level. Padded, neighbours by length share a micro-batch,
    so that little is padding. An example longer than micro_tokens gets one of its own. Some micro-batches are empty when
    there are fewer examples than workers: all workers must step together.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    if not packing:
        return _by_length(lengths, order, workers, micro_tokens)
    rounds = max(1, -(-sum(lengths) // (micro_tokens * workers)))
    while True:
        bins: list[list[int]] = [[] for _ in range(rounds * workers)]
        load = [0] * len(bins)
        for i in order:
            lightest = load.index(min(load))
            bins[lightest].append(i)
            load[lightest] += lengths[i]
        costs = [sum(lengths[i] for i in b) for b in bins if b]
        alone = all(len(b) <= 1 for b in bins)
        if alone or max(costs) <= max(micro_tokens, max(lengths)):
            return [bins[w::workers] for w in range(workers)]
        rounds += 1


def _by_length(lengths: Sequence[int], order: list[int], workers: int, micro_tokens: int) -> list[list[list[int]]]:
    """Neighbours of `order` (longest first) in as few rounds as fit, each padded to as few tokens as these rounds allow."""

    def cut(most: int) -> list[list[int]]:
        bins: list[list[int]] = []
        for i in order:
            if not bins or (len(bins[-1]) + 1) * lengths[bins[-1][0]] > most:
                bins.append([])
            bins[-1].append(i)
        return bins

    longest = lengths[order[0]]
    most = max(micro_tokens, longest)
    room = -(-len(cut(most)) // workers) * workers
    bins = cut(longest + bisect_left(range(longest, most), True, key=lambda tokens: len(cut(tokens)) <= room))
    bins += [[] for _ in range(room - len(bins))]
    return [bins[w::workers] for w in range(workers)]


def counts(corpus: Corpus, of: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Supervised tokens of each of some examples."""
    return np.array([corpus.mask[corpus.starts[i] + 1 : corpus.ends[i]].sum() for i in of], np.int64)


def supervised(corpus: Corpus, of: Sequence[int] | NDArray[np.int64]) -> float:
    """Supervised tokens of some examples, each counted with its example's weight: what their summed loss is divided by."""
    return float(np.dot(counts(corpus, of), corpus.weights[list(of)]))


def micro(corpus: Corpus, of: Sequence[int], packing: bool, device: torch.device) -> Micro:
    """Some examples (longest first) as one forward pass; one masked token when there are none."""
    ids = [corpus.ids[corpus.starts[i] : corpus.ends[i]] for i in of] or [np.zeros(2, np.int32)]
    masks = [corpus.mask[corpus.starts[i] + 1 : corpus.ends[i]] for i in of] or [np.zeros(1, np.uint8)]
    counts = [int(m.sum()) for m in masks]
    weights = np.repeat(corpus.weights[list(of)] if of else np.zeros(1), counts)
    labels = np.concatenate([x[1:][m != 0] for x, m in zip(ids, masks, strict=True)])
    lengths = [len(m) for m in masks]
    if packing:
        columns = np.flatnonzero(np.concatenate(masks))
        inputs: dict[str, Any] = {
            "input_ids": _tensor(np.concatenate([x[:-1] for x in ids])[None], device),
            "position_ids": _tensor(np.concatenate([np.arange(n) for n in lengths])[None], device),
            "documents": packed(lengths, device),
        }
        rows = np.zeros(len(columns), np.int64)
    else:
        padded = np.zeros((len(ids), max(lengths)), np.int32)
        at = np.zeros_like(padded, np.uint8)
        for row, (x, m) in enumerate(zip(ids, masks, strict=True)):
            padded[row, : len(m)], at[row, : len(m)] = x[:-1], m
        # Padding follows every real token, so causal attention never sees it and no mask is needed.
        inputs = {"input_ids": _tensor(padded, device)}
        rows, columns = np.nonzero(at)
    return Micro(
        inputs=inputs | {"use_cache": False},
        rows_N=_tensor(rows, device),
        columns_N=_tensor(columns, device),
        labels_N=_tensor(labels, device),
        weights_N=torch.as_tensor(weights, dtype=torch.float32).to(device),
        soft=_soft(corpus, corpus.spans_E3[list(of)], counts, device),
        view=None if corpus.seen is None else live.view(corpus.seen, ids, corpus.spans_E3[list(of)], counts, device),
        tokens=sum(lengths) if of else 0,
    )


def _soft(corpus: Corpus, spans_E3: NDArray[np.int64], counts: Sequence[int], device: torch.device) -> Soft | None:
    """Soft targets of the supervised positions of some examples, one after another."""
    if corpus.soft_S is None:
        return None
    at_N = np.full(sum(counts), -1)
    before = 0
    for (start, first, count), supervised_tokens in zip(spans_E3, counts, strict=False):
        at_N[before + first : before + first + count] = np.arange(start, start + count)
        before += supervised_tokens
    found_N = corpus.soft_S[at_N]
    said_N = soft.says(found_N)
    given_N = (at_N >= 0) & said_N
    found_N["logprobs"][~said_N, -1] = 0  # what is not counted must still be a number
    return Soft(
        ids_NK=_tensor(found_N["ids"], device),
        teacher_NC=torch.as_tensor(found_N["logprobs"]).to(device, non_blocking=True),
        given_N=torch.as_tensor(given_N).to(device, torch.float32),
        everywhere=bool(given_N.all()),
        beyond_V=None if corpus.beyond_V is None else torch.as_tensor(corpus.beyond_V > 0).to(device),
    )


def _tensor(values: NDArray[Any], device: torch.device) -> Tensor:
    return torch.as_tensor(values.astype(np.int64)).to(device, non_blocking=True)

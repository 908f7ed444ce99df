"""Scores by a forward pass in transformers: top-k with its tail, or draws, at any temperature.

B = sequences of a batch, L = their longest, C = positions of one chunk, D = draws, V = vocabulary. A batch holds sequences
of similar length, right-padded: attention is causal, so no real token ever sees the padding and no mask is needed. A batch
goes through in chunks over a cache, and each chunk's logits are reduced to what is kept before the next one's are made: no
more than B x C x V of them are ever held. How long a row may be is computed from what memory the weights leave.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import psutil
import torch
from torch import Tensor

from raystill import recipe, targets
from raystill.engine import context_length
from raystill.errors import ResourceError
from raystill.teachers import frozen
from raystill.teachers.scorer import Asked

LOGITS_BYTES = 512 << 20
"""Most that one chunk's float32 logits take; larger chunks are no faster."""
COPIES = 6
"""How often a chunk's logits are held at once while they become what is kept: as the model gives them, as float32, divided
by the temperature, as log-probabilities, and twice more for the tail, or in float64 for the draws."""
BATCH_TOKENS = 4096
"""Tokens of a batch: enough to keep a GPU busy, and a cache of tens of megabytes on the small models of a laptop."""


class Speaks(Protocol):
    """What gives a row's log-distributions piece by piece: one model, or several mixed."""

    score: recipe.Score
    vocabulary: int
    token_bytes: int
    """Bytes that one token takes in the cache."""
    longest: int
    """Tokens of a row that memory holds."""

    def logprobs(self, rows: Sequence[Asked]) -> Iterator[list[Tensor]]:
        """Log-probabilities of each token of the answers, in order: per row float32[C, V], some of them empty."""


class Forward:
    """One model in this process. Raises ModelError when it cannot be loaded."""

    def __init__(self, score: recipe.Score, teacher: recipe.Teacher, model: str) -> None:
        self.score = score
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = frozen.load(model, self.device)
        self.vocabulary = int(self.model.config.vocab_size)
        free = free_bytes(self.device)
        self.logits_bytes = min(LOGITS_BYTES, free // 2 // COPIES)
        self.context = context_length(model)
        self.token_bytes = self._cache_bytes()
        self.longest = free // 2 // self.token_bytes

    async def distributions(self, rows: Sequence[Asked]) -> list[targets.TopK | targets.Sampled]:
        """For each row what the teacher thinks at its T positions. Raises ResourceError for one that memory does not hold."""
        return distributions(self, rows)

    def dense(self, row: Asked) -> Iterator[npt.NDArray[np.float32]]:
        """The row's whole log-distributions at the store's temperature, float32[C, V] at a time, T in all."""
        return dense(self, row)

    def logprobs(self, rows: Sequence[Asked]) -> Iterator[list[Tensor]]:
        """`Speaks.logprobs`, at the store's temperature."""
        for chunk in self.chunks(rows):
            yield [torch.log_softmax(logits_CV / self.score.temperature, dim=-1) for logits_CV in chunk]

    @torch.inference_mode()
    def chunks(self, rows: Sequence[Asked]) -> Iterator[list[Tensor]]:
        """The logits that predict each token of the answers, in order: per row float32[C, V], some of them empty."""
        ids = [r.prompt_ids + r.completion_ids for r in rows]
        longest = max(map(len, ids))
        ids_BL = torch.tensor([row + [0] * (longest - len(row)) for row in ids], device=self.device)
        # Position p predicts token p + 1; the last token predicts nothing that is asked for.
        spans = [(len(r.prompt_ids) - 1, len(i) - 1) for r, i in zip(rows, ids, strict=True)]
        chunk = max(1, self.logits_bytes // (4 * self.vocabulary * len(rows)))
        cache: Any = None
        for start in range(0, max(end for _, end in spans), chunk):
            stop = min(start + chunk, longest)
            wanted = [(max(a, start) - start, max(min(b, stop), a, start) - start) for a, b in spans]
            first = min((a for a, b in wanted if a < b), default=stop - start - 1)
            keep = torch.arange(first, stop - start, device=self.device)
            out = self.model(ids_BL[:, start:stop], past_key_values=cache, use_cache=True, logits_to_keep=keep)
            cache = out.past_key_values
            yield [out.logits[row, max(0, a - first) : max(0, b - first)].float() for row, (a, b) in enumerate(wanted)]

    @torch.inference_mode()
    def _cache_bytes(self) -> int:
        """Bytes that one token takes in the cache, as this model fills it."""
        ids_BL = torch.zeros((1, 8), dtype=torch.long, device=self.device)
        layers = self.model(ids_BL, use_cache=True).past_key_values.layers
        held = [value for layer in layers for value in vars(layer).values() if isinstance(value, Tensor)]
        return max(1, sum(tensor.nbytes for tensor in held) // ids_BL.numel())


def free_bytes(device: torch.device) -> int:
    """Memory that is free now."""
    return int(torch.cuda.mem_get_info()[0] if device.type == "cuda" else psutil.virtual_memory().available)


@torch.inference_mode()
def distributions(model: Speaks, rows: Sequence[Asked]) -> list[targets.TopK | targets.Sampled]:
    """For each row what is kept of its T positions. Raises ResourceError for one that memory does not hold."""
    found: dict[int, targets.TopK | targets.Sampled] = {}
    lengths = [max(map(len, (r.prompt_ids, *r.further))) + len(r.completion_ids) for r in rows]
    if (longest := max(lengths, default=0)) > model.longest:
        raise ResourceError(
            f"a row of {longest} tokens takes {longest * model.token_bytes / 2**30:.1f} GiB of cache, and there was room "
            f"for {model.longest} tokens, {model.longest * model.token_bytes / 2**30:.1f} GiB, which is half of the memory "
            "that the weights left; score on machines with more, with fewer replicas on each, or drop long answers "
            "with a smaller curate.max_tokens"
        )
    for batch in batches(lengths, min(BATCH_TOKENS, model.longest)):
        asked = [rows[i] for i in batch]
        reduce = [_reducer(model, row) for row in asked]
        pieces: list[list[Any]] = [[] for _ in asked]
        for chunk in model.logprobs(asked):
            for held, keep, logprobs_CV in zip(pieces, reduce, chunk, strict=True):
                if len(logprobs_CV):
                    held.append(keep(logprobs_CV))
        found |= {i: joined(held) for i, held in zip(batch, pieces, strict=True)}
    return [found[i] for i in range(len(rows))]


def dense(model: Speaks, row: Asked) -> Iterator[npt.NDArray[np.float32]]:
    """The row's whole log-distributions, float32[C, V] at a time, T in all."""
    for (logprobs_CV,) in model.logprobs([row]):
        if len(logprobs_CV):
            yield logprobs_CV.cpu().numpy()


def _reducer(model: Speaks, row: Asked) -> Callable[[Tensor], targets.TopK | targets.Sampled]:
    """What makes a row's log-probabilities, chunk after chunk, into what is kept of them."""
    if model.score.support == "top_k":
        return lambda logprobs_CV: top_k(logprobs_CV, min(model.score.k, model.vocabulary))
    said = f"{model.score.seed}/{row.prompt_ids}/{row.completion_ids}".encode()
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(said).digest()))
    return lambda logprobs_CV: sampled(logprobs_CV, model.score.draws, rng)


def batches(lengths: Sequence[int], tokens: int) -> Iterator[list[int]]:
    """Indices in batches of so many tokens and similar length, the longest first, padding counted."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    while order:
        size = max(1, tokens // lengths[order[0]])
        yield order[:size]
        order = order[size:]


def top_k(logprobs_TV: Tensor, k: int) -> targets.TopK:
    """The k likeliest ids, and the exact mass of all others: summed over them, since one less the kept loses its digits."""
    kept_TK, ids_TK = logprobs_TV.topk(k, dim=-1)
    rest_TV = logprobs_TV.scatter(-1, ids_TK, -torch.inf)
    tail_T = rest_TV.logsumexp(-1).exp()
    return targets.TopK(ids_TK.int().cpu().numpy(), kept_TK.cpu().numpy(), tail_T.cpu().numpy())


def sampled(logprobs_TV: Tensor, draws: int, seed: int | np.random.Generator) -> targets.Sampled:
    """How often each id came in independent draws (random-sampling distillation, arXiv 2503.16870).

    An id is where a uniform number falls in the cumulated probabilities, so equal numbers draw equal ids on every device.
    """
    uniform_TD = torch.from_numpy(np.random.default_rng(seed).random((len(logprobs_TV), draws))).to(logprobs_TV.device)
    cumulated_TV = logprobs_TV.exp().cumsum(-1, dtype=torch.float64)
    drawn_TD = torch.searchsorted(cumulated_TV, uniform_TD * cumulated_TV[:, -1:], right=True)
    drawn_TD = drawn_TD.clamp_max_(logprobs_TV.shape[-1] - 1).sort(-1).values.cpu()
    begins_TD = torch.ones_like(drawn_TD, dtype=torch.bool)
    begins_TD[:, 1:] = drawn_TD[:, 1:] != drawn_TD[:, :-1]
    starts_N = begins_TD.flatten().nonzero()[:, 0].numpy()
    offsets_T1 = np.concatenate([[0], begins_TD.sum(-1).cumsum(0).numpy()])
    counts_N = np.diff(starts_N, append=begins_TD.numel())
    return targets.Sampled(drawn_TD[begins_TD].int().numpy(), counts_N.astype(np.int32), offsets_T1)


def joined(parts: Sequence[Any]) -> targets.TopK | targets.Sampled:
    """The chunks of one row as one."""
    if isinstance(parts[0], targets.TopK):
        return targets.TopK(*map(np.concatenate, zip(*parts, strict=True)))
    ids, counts, offsets = zip(*parts, strict=True)
    per_T = np.concatenate([np.diff(o) for o in offsets])
    return targets.Sampled(np.concatenate(ids), np.concatenate(counts), np.concatenate([[0], per_T.cumsum()]))

"""Scores by a forward pass in transformers: top-k with its tail, or draws, at any temperature.

B = sequences of a batch, L = their longest, C = positions of one chunk, N = positions asked for, V = vocabulary. A batch
holds sequences of similar length, right-padded: attention is causal, so no real token ever sees the padding and no mask
is needed. Long sequences go through in chunks over a cache, so that B x C x V logits are all that is ever held.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from raystill import recipe, targets
from raystill.errors import ModelError
from raystill.teachers.scorer import Asked

LOGITS_BYTES = 512 << 20
"""Most that one chunk's float32 logits take, and about three times it while they become probabilities."""
BATCH_TOKENS = 4096
"""Tokens of a batch: enough to keep a GPU busy, and a cache of tens of megabytes on the small models of a laptop."""


class Forward:
    """One model in this process. Raises ModelError when it cannot be loaded."""

    def __init__(self, score: recipe.Score, teacher: recipe.Teacher, model: str) -> None:
        from transformers import AutoModelForCausalLM

        self.score = score
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        try:
            self.model = AutoModelForCausalLM.from_pretrained(model, dtype=dtype).to(self.device).eval()
        except (OSError, ValueError) as e:
            raise ModelError(f"{model} cannot be loaded by transformers: {e}; check teacher.model") from e
        self.vocabulary = int(self.model.config.vocab_size)

    async def distributions(self, rows: Sequence[Asked]) -> list[targets.TopK | targets.Sampled]:
        """For each row what the teacher thinks at its T positions."""
        found: dict[int, targets.TopK | targets.Sampled] = {}
        for batch in batches([len(r.prompt_ids) + len(r.completion_ids) for r in rows]):
            for i, logits_TV in zip(batch, self.logits([rows[i] for i in batch]), strict=True):
                found[i] = self._kept(logits_TV, rows[i])
        return [found[i] for i in range(len(rows))]

    @torch.inference_mode()
    def logits(self, rows: Sequence[Asked]) -> list[Tensor]:
        """Per row float32[T, V]: the logits that predict each token of its answer."""
        ids = [r.prompt_ids + r.completion_ids for r in rows]
        longest = max(map(len, ids))
        ids_BL = torch.tensor([row + [0] * (longest - len(row)) for row in ids], device=self.device)
        # Position p predicts token p + 1; the last token predicts nothing that is asked for.
        spans = [(len(r.prompt_ids) - 1, len(i) - 1) for r, i in zip(rows, ids, strict=True)]
        chunk = max(1, LOGITS_BYTES // (4 * self.vocabulary * len(rows)))
        pieces: list[list[Tensor]] = [[] for _ in rows]
        cache: Any = None
        for start in range(0, max(end for _, end in spans), chunk):
            stop = min(start + chunk, longest)
            wanted = [(max(a, start) - start, min(b, stop) - start) for a, b in spans]
            first = min((a for a, b in wanted if a < b), default=stop - start - 1)
            keep = torch.arange(first, stop - start, device=self.device)
            out = self.model(ids_BL[:, start:stop], past_key_values=cache, use_cache=True, logits_to_keep=keep)
            cache = out.past_key_values
            for row, (a, b) in enumerate(wanted):
                if a < b:
                    pieces[row].append(out.logits[row, a - first : b - first].float())
        return [torch.cat(parts) for parts in pieces]

    def _kept(self, logits_TV: Tensor, row: Asked) -> targets.TopK | targets.Sampled:
        logprobs_TV = torch.log_softmax(logits_TV / self.score.temperature, dim=-1)
        if self.score.support == "top_k":
            return top_k(logprobs_TV, min(self.score.k, self.vocabulary))
        said = f"{self.score.seed}/{row.prompt_ids}/{row.completion_ids}".encode()
        return sampled(logprobs_TV, self.score.draws, int.from_bytes(hashlib.sha256(said).digest()[:7]))


def batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices in batches of similar length, the longest first, padding counted."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    while order:
        size = max(1, BATCH_TOKENS // lengths[order[0]])
        yield order[:size]
        order = order[size:]


def top_k(logprobs_TV: Tensor, k: int) -> targets.TopK:
    """The k likeliest ids, and the exact mass of all others: summed over them, since one less the kept loses its digits."""
    kept_TK, ids_TK = logprobs_TV.topk(k, dim=-1)
    rest_TV = logprobs_TV.scatter(-1, ids_TK, -torch.inf)
    tail_T = rest_TV.logsumexp(-1).exp()
    return targets.TopK(ids_TK.int().cpu().numpy(), kept_TK.cpu().numpy(), tail_T.cpu().numpy())


def sampled(logprobs_TV: Tensor, draws: int, seed: int) -> targets.Sampled:
    """How often each id came in independent draws (random-sampling distillation, arXiv 2503.16870)."""
    generator = torch.Generator(device=logprobs_TV.device).manual_seed(seed)
    drawn_TD = torch.multinomial(logprobs_TV.exp(), draws, replacement=True, generator=generator).sort(-1).values
    positions_TD = torch.arange(len(drawn_TD), device=drawn_TD.device)[:, None].expand_as(drawn_TD)
    pairs_N2 = torch.stack([positions_TD, drawn_TD], -1).reshape(-1, 2)
    pairs_N2, counts_N = torch.unique_consecutive(pairs_N2, dim=0, return_counts=True)
    per_T = torch.bincount(pairs_N2[:, 0], minlength=len(drawn_TD))
    offsets_T1 = torch.cat([per_T.new_zeros(1), per_T.cumsum(0)])
    return targets.Sampled(
        pairs_N2[:, 1].int().cpu().numpy(), counts_N.int().cpu().numpy(), offsets_T1.int().cpu().numpy()
    )

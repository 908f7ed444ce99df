"""Several teachers as one: at each token p = sum over i of w_i p_i, over the whole vocabulary.

All of them read the same answer at the same time, each behind its own view of the prompt, so nothing about a token is
guessed: the mixture's likeliest ids, its tail and its draws are taken from the whole of it.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from raystill import recipe, targets
from raystill.teachers import forward
from raystill.teachers.forward import Forward
from raystill.teachers.scorer import Asked


class Mixture:
    """Models in one process, with the weights of `score.mixture` in the same order, scaled to one."""

    def __init__(self, score: recipe.Score, models: Sequence[Forward]) -> None:
        self.score, self.models = score, models
        # Models of one tokenizer may pad their embeddings differently.
        self.vocabulary = max(m.vocabulary for m in models)
        self.context = min(m.context for m in models)
        self.token_bytes = sum(m.token_bytes for m in models)
        free = forward.free_bytes(models[0].device)
        self.longest = free // 2 // self.token_bytes
        for model in models:
            model.logits_bytes = min(forward.LOGITS_BYTES, free // 2 // forward.COPIES) // len(models)
        weights = torch.tensor(list(score.mixture.values()), dtype=torch.float64)
        self.log_weights = (weights / weights.sum()).log().tolist()

    async def distributions(self, rows: Sequence[Asked]) -> list[targets.TopK | targets.Sampled]:
        """As `Forward.distributions`."""
        return forward.distributions(self, rows)

    def dense(self, row: Asked) -> Iterator[npt.NDArray[np.float32]]:
        """As `Forward.dense`."""
        return forward.dense(self, row)

    @torch.inference_mode()
    def logprobs(self, rows: Sequence[Asked]) -> Iterator[list[Tensor]]:
        """`forward.Speaks.logprobs`. The models' chunks end at different tokens, as their prompts differ in length: a piece
        is as long as all have come."""
        streams = [m.logprobs([row.seen_by(i) for row in rows]) for i, m in enumerate(self.models)]
        held = [[torch.empty(0, self.vocabulary, device=m.device) for _ in rows] for m in self.models]
        to_come = [sum(len(row.completion_ids) for row in rows)] * len(streams)
        while any(to_come):
            # The one of which least is held goes on, so that little is.
            i = min((sum(map(len, held[i])), i) for i, n in enumerate(to_come) if n)[1]
            came = [self._padded(logprobs_CV) for logprobs_CV in next(streams[i])]
            to_come[i] -= sum(map(len, came))
            held[i] = [torch.cat(pair) for pair in zip(held[i], came, strict=True)]
            ready = [min(len(pieces[row]) for pieces in held) for row in range(len(rows))]
            yield [self._mixed([pieces[row][:n] for pieces in held]) for row, n in enumerate(ready)]
            held = [[piece[n:] for piece, n in zip(pieces, ready, strict=True)] for pieces in held]

    def _padded(self, logprobs_CV: Tensor) -> Tensor:
        return F.pad(logprobs_CV, (0, self.vocabulary - logprobs_CV.shape[1]), value=-torch.inf)

    def _mixed(self, of_models: Sequence[Tensor]) -> Tensor:
        """log of the weighted sum of distributions, [C, V]."""
        return torch.stack([x + w for x, w in zip(of_models, self.log_weights, strict=True)]).logsumexp(0)

"""The teacher's whole distribution, where its logits are at hand: V ids, and a tail only where the two sides' V differ.

The larger side has rows that pad its embedding; no tokenizer gives their ids, and what mass they hold is the tail.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from raystill.losses import ABSENT, LEAST_TAIL


@dataclass(frozen=True)
class Dense:
    """What a live teacher thinks at N positions."""

    logits_NV: Tensor
    given_N: Tensor
    """1 where it thinks anything, else 0."""
    everywhere: bool

    def classes(self, softened_NV: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probabilities of teacher and student over the same classes."""
        theirs_NV = self.logits_NV.float() if temperature == 1 else self.logits_NV.float() / temperature
        sizes = theirs_NV.shape[1], softened_NV.shape[1]
        return _over(theirs_NV, min(sizes), sizes[0] == sizes[1]), _over(softened_NV, min(sizes), sizes[0] == sizes[1])


def _over(logits_NV: Tensor, ids: int, whole: bool) -> Tensor:
    """Log-probabilities of the first so many ids and of all others together."""
    logprobs_NV = logits_NV.log_softmax(1)
    if whole or ids == logits_NV.shape[1]:
        tail_N1 = logprobs_NV.new_full((len(logprobs_NV), 1), ABSENT if whole else math.log(LEAST_TAIL))
    else:
        tail_N1 = logprobs_NV[:, ids:].logsumexp(1, keepdim=True)
    return torch.cat([logprobs_NV[:, :ids], tail_N1], 1)

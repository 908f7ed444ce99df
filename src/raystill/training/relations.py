"""Where a layer's tokens look, and how far the student's look elsewhere.

Attention itself stays as it is, whatever computes it: a map is made a second time, for the mapped layers and the supervised
positions alone, so no T x T map of a whole row exists. Q = supervised positions of one example, K = its tokens up to the last
of them, H = heads, G = relation heads, d = width of a head, C = classes: all tokens before those that both sides read alike,
together, and each of these.
"""

import math

import torch
from torch import Tensor

from raystill.errors import ModelError
from raystill.losses import ABSENT
from raystill.training.documents import Heads


def maps(heads: Heads, at: slice, queries: int, shared: int) -> Tensor:
    """Log of a layer's attention, its mean over heads, [1, Q, C]: the sides' heads differ in number and in role.

    Raises ModelError where a layer attends within a window that is shorter than the example.
    """
    query_KHd, key_KHd = heads.query_THd[at], heads.key_TKd[at]
    if heads.window is not None and heads.window < len(key_KHd):
        raise ModelError(
            f"a layer attends within {heads.window} tokens and an example has {len(key_KHd)}, so its map cannot be compared "
            f"with another's; set train.max_length: {heads.window}, or name other layers in train.loss.attention.map"
        )
    key_KHd = key_KHd.repeat_interleave(query_KHd.shape[1] // key_KHd.shape[1], 1)
    logprobs_HQC = _relation(query_KHd[-queries:], key_KHd, heads.scaling, shared)
    return logprobs_HQC.logsumexp(0, keepdim=True) - math.log(len(logprobs_HQC))


def values(heads: Heads, at: slice, queries: int, shared: int, groups: int) -> Tensor:
    """Log of how each token's values resemble those before it, [G, Q, C] (MiniLMv2, Wang et al. 2020, arXiv 2012.15828).

    softmax of v v^T / sqrt(d), with all of a layer's values cut anew into G heads, so that the sides may differ in their own.
    """
    value_KGd = heads.value_TKd[at].reshape(at.stop - at.start, groups, -1)
    return _relation(value_KGd[-queries:], value_KGd, value_KGd.shape[-1] ** -0.5, shared)


def divergence(teacher_HQC: Tensor, student_HQC: Tensor, measure: str) -> Tensor:
    """Distance at each position, the mean over heads: KL(teacher, student), or the sum of squared differences. float32[Q]."""
    p_HQC = teacher_HQC.exp()
    if measure == "kl":
        return (p_HQC * (teacher_HQC - student_HQC)).sum(-1).mean(0)
    return (p_HQC - student_HQC.exp()).square().sum(-1).mean(0)


def _relation(query_QHd: Tensor, key_KHd: Tensor, scaling: float, shared: int) -> Tensor:
    scores_HQK = torch.einsum("qhd,khd->hqk", query_QHd.float(), key_KHd.float()) * scaling
    queries, keys = scores_HQK.shape[1:]
    later_QK = torch.ones(queries, keys, dtype=torch.bool, device=scores_HQK.device).triu(keys - queries + 1)
    logprobs_HQK = scores_HQK.masked_fill(later_QK, ABSENT).log_softmax(-1)
    before_HQ1 = logprobs_HQK[..., : keys - shared].logsumexp(-1, keepdim=True)
    return torch.cat([before_HQ1, logprobs_HQK[..., keys - shared :]], -1)

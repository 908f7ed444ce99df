"""Attention kept inside documents: several examples share one row of tokens, and none sees another.

Everything but attention runs on the packed row. Attention takes each document out, right-padded beside others of a similar
length, attends causally and puts the result back: padding follows every real token, so causality alone keeps it unseen and
no mask is built. A block mask over a row of 2,048 tokens would cost 34 times the attention of 60-token documents.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

NAME = "raystill_documents"
"""The attention implementation's name in transformers."""


@dataclass(frozen=True)
class Group:
    """Documents of similar length, neighbours in the row: D of them, the longest of L tokens, N tokens together."""

    documents: int
    take_DL: Tensor
    """int64, flat: where in the row each padded position comes from (padding repeats some token of the row)."""
    back_N: Tensor
    """int64: where among the padded positions each token of the row is."""


@dataclass(frozen=True)
class Heads:
    """What one layer's attention over a row is computed from."""

    query_THd: Tensor
    key_TKd: Tensor
    value_TKd: Tensor
    scaling: float
    window: int | None


@dataclass
class Taps:
    """Layers whose attention is looked at: given to a model beside `documents`, it holds theirs after the forward pass."""

    layers: Collection[int]
    heads: dict[int, Heads] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A row's documents. One object, so that compiled layers pass it on without a look at how many groups there are."""

    groups: list[Group]


def packed(lengths: Sequence[int], device: torch.device) -> Row:
    """Group neighbours whose lengths lie within a factor of two. `lengths` fall; T = sum(lengths)."""
    out: list[Group] = []
    start = first = 0
    while first < len(lengths):
        longest = lengths[first]
        last = first
        while last < len(lengths) and 2 * lengths[last] >= longest:
            last += 1
        of_group = torch.tensor(lengths[first:last])
        starts = start + of_group.cumsum(0) - of_group
        inside = torch.arange(longest) < of_group[:, None]
        take = torch.where(inside, starts[:, None] + torch.arange(longest), starts[:, None])
        back = torch.nonzero(inside.flatten()).flatten()
        out.append(Group(last - first, take.flatten().to(device), back.to(device)))
        start += int(of_group.sum())
        first = last
    return Row(out)


def attend(
    module: torch.nn.Module,
    query_1HTd: Tensor,
    key_1KTd: Tensor,
    value_1KTd: Tensor,
    attention_mask: Tensor | None,
    *,
    documents: Row,
    taps: Taps | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function: H heads over K key-value heads, T tokens. Returns [1, T, H, d]."""
    query_THd, key_TKd, value_TKd = (x[0].transpose(0, 1) for x in (query_1HTd, key_1KTd, value_1KTd))
    layer: Any = module.layer_idx
    if taps and layer in taps.layers:
        scale = scaling or query_THd.shape[-1] ** -0.5
        taps.heads[layer] = Heads(query_THd, key_TKd, value_TKd, scale, sliding_window)
    repeats = query_THd.shape[1] // key_TKd.shape[1]
    if repeats > 1:
        key_TKd, value_TKd = key_TKd.repeat_interleave(repeats, 1), value_TKd.repeat_interleave(repeats, 1)
    out = [
        _group(g, query_THd, key_TKd, value_TKd, dropout=dropout, scaling=scaling, window=sliding_window)
        for g in documents.groups
    ]
    return torch.cat(out)[None], None


def _group(
    group: Group, q: Tensor, k: Tensor, v: Tensor, *, dropout: float, scaling: float | None, window: int | None
) -> Tensor:
    q, k, v = (x[group.take_DL].view(group.documents, -1, *x.shape[1:]).transpose(1, 2) for x in (q, k, v))
    length = q.shape[2]
    mask = None
    if window is not None and window < length:
        at = torch.arange(length, device=q.device)
        mask = (at[:, None] >= at) & (at[:, None] - at < window)
    out = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scaling
    )
    return out.transpose(1, 2).flatten(0, 1)[group.back_N]


def register() -> str:
    """Make `attend` known to transformers; the name to load a model with."""
    from transformers import AttentionInterface

    # Compiled layers stop before it: groups differ from one micro-batch to the next, and each would be compiled for.
    AttentionInterface.register(NAME, torch.compiler.disable(attend))
    return NAME

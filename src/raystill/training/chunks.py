"""A loss over N positions and V vocabulary entries that never holds N x V numbers.

Positions go through the output head and the loss in chunks. Since the loss is a sum, a chunk's gradients are known as soon
as its value is: they are taken at once, and its logits are dropped. So nothing is computed twice, and what is held is one
chunk's logits with their gradient, and the gradients of the N hidden states and of the head. H = hidden size.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = 64 << 20
"""Float32 logits of one chunk. 16 MB takes 3 to 5% longer on one core: the head is read for fewer rows."""

SummedLoss = Callable[[Tensor, slice], Tensor]
"""(logits of some positions, which ones) -> their summed loss."""


def summed(hidden_NH: Tensor, weight_VH: Tensor, loss: SummedLoss, chunk: int | None = None) -> Tensor:
    """The summed loss of all positions, with gradients for both tensors; `chunk` positions at a time."""
    chunk = chunk or max(1, CHUNK_BYTES // (4 * len(weight_VH)))
    if torch.is_grad_enabled():
        total: Tensor = _Summed.apply(hidden_NH, weight_VH, loss, chunk)  # type: ignore[no-untyped-call]
        return total
    return sum(
        (loss(hidden_NH[at] @ weight_VH.T, at) for at in _slices(len(hidden_NH), chunk)), hidden_NH.new_zeros(())
    )


def _slices(n: int, chunk: int) -> Iterator[slice]:
    return (slice(start, start + chunk) for start in range(0, n, chunk))


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_NH: Tensor, weight_VH: Tensor, loss: SummedLoss, chunk: int) -> Tensor:
        of_hidden, of_weight = ctx.needs_input_grad[:2]
        total = torch.zeros((), device=hidden_NH.device)
        by_hidden_NH = torch.zeros_like(hidden_NH) if of_hidden else None
        # In float32: a sum of many bfloat16 chunks would stop growing.
        by_weight_VH = torch.zeros_like(weight_VH, dtype=torch.float32) if of_weight else None
        for at in _slices(len(hidden_NH), chunk):
            logits_CV = (hidden_NH[at] @ weight_VH.T).requires_grad_()
            with torch.enable_grad():
                value = loss(logits_CV, at)
            (by_logits_CV,) = torch.autograd.grad(value, logits_CV)
            total += value.detach()
            if by_hidden_NH is not None:
                by_hidden_NH[at] = by_logits_CV @ weight_VH
            if by_weight_VH is not None and by_weight_VH.dtype == weight_VH.dtype:
                by_weight_VH.addmm_(by_logits_CV.T, hidden_NH[at])
            elif by_weight_VH is not None:
                by_weight_VH += by_logits_CV.T @ hidden_NH[at]
        ctx.save_for_backward(by_hidden_NH, by_weight_VH)
        ctx.dtype = weight_VH.dtype
        return total

    @staticmethod
    def backward(ctx: Any, by_total: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        by_hidden_NH, by_weight_VH = ctx.saved_tensors
        return (
            None if by_hidden_NH is None else by_hidden_NH * by_total,
            None if by_weight_VH is None else (by_weight_VH * by_total).to(ctx.dtype),
            None,
            None,
        )

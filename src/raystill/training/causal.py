"""A causal language model at the positions that are asked for: logits that need never all exist, and what its layers said.

N = positions, V = vocabulary, H = hidden size.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from raystill.training.documents import Heads, Taps


@dataclass(frozen=True)
class Positions:
    """A model's last hidden states at N positions with its output head, or, where those are not all of it, the logits."""

    hidden_NH: Tensor | None
    head_VH: Tensor | None
    logits_NV: Tensor | None
    layers: Mapping[int, Tensor] = field(default_factory=dict)
    """Hidden states [N, H] behind the layers that were asked for; behind the last one they are normalised."""
    heads: Mapping[int, Heads] = field(default_factory=dict)
    """What the attention of the layers that were asked for is computed from."""

    def logits(self, at: slice) -> Tensor:
        """Logits of some positions."""
        if self.hidden_NH is None or self.head_VH is None:
            assert self.logits_NV is not None
            return self.logits_NV[at]
        return self.hidden_NH[at] @ self.head_VH.T


@torch.no_grad()
def headed(model: Any, inputs: Mapping[str, Any]) -> bool:
    """Whether this architecture's logits are its head times its last hidden state, and nothing else.

    Where they are capped, scaled or biased after the head, all logits of a micro-batch are held at once.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear) or model.get_decoder() is model:
        return False
    logits = model(**inputs).logits
    return torch.equal(model.get_decoder()(**inputs).last_hidden_state @ head.weight.T, logits)


def at(
    model: Any,
    inputs: Mapping[str, Any],
    rows_N: Tensor,
    columns_N: Tensor,
    headed: bool,
    layers: Collection[int] = (),
    heads: Collection[int] = (),
) -> Positions:
    """The model at some rows and columns of its inputs."""
    taps = Taps(heads)
    asked = {**inputs, **({"output_hidden_states": True} if layers else {}), **({"taps": taps} if heads else {})}
    if headed:
        out = model.get_decoder()(**asked)
        last_NH, head_VH = out.last_hidden_state[rows_N, columns_N], model.get_output_embeddings().weight
        logits_NV = None
    else:
        kept, at_N = torch.unique(columns_N, return_inverse=True)
        # A micro-batch without labels still goes through the model: all workers step together.
        kept = kept if len(kept) else kept.new_zeros(1)
        out = model(**asked, logits_to_keep=kept)
        last_NH = head_VH = None
        logits_NV = out.logits[rows_N, at_N]
    found = {i: out.hidden_states[i + 1][rows_N, columns_N] for i in layers}
    return Positions(last_NH, head_VH, logits_NV, found, taps.heads)

"""What DeepSpeed wraps: the student with its loss, so that one forward pass gives one number and no logits."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from raystill.training import chunks
from raystill.training.objective import Objective

if TYPE_CHECKING:
    from raystill.training.batches import Micro


class Learner(torch.nn.Module):
    """A causal language model of transformers, and what is minimised."""

    def __init__(self, student: Any, objective: Objective) -> None:
        super().__init__()
        self.student, self.objective = student, objective
        self.chunked = False

    @torch.no_grad()
    def look(self, micro: "Micro") -> None:
        """See whether this architecture's logits are its head times its last hidden state, and nothing else.

        Where they are capped, scaled or biased after the head, all logits of a micro-batch are held at once.
        """
        head = self.student.get_output_embeddings()
        self.student.eval()
        if isinstance(head, torch.nn.Linear) and self.student.get_decoder() is not self.student:
            logits = self.student(**micro.inputs).logits
            self.chunked = torch.equal(self._hidden(micro) @ head.weight.T, logits)
        self.student.train()

    def forward(self, micro: "Micro") -> Tensor:
        """Weighted sum of a micro-batch's token losses, computed at supervised positions alone."""
        if self.chunked:
            hidden_NH = self._hidden(micro)[micro.rows_N, micro.columns_N]
            weight_VH = self.student.get_output_embeddings().weight
            return chunks.summed(hidden_NH, weight_VH, lambda logits_CV, at: self._loss(micro, logits_CV, at))
        kept, at_N = torch.unique(micro.columns_N, return_inverse=True)
        # A micro-batch without labels still goes through the model: all workers step together.
        kept = kept if len(kept) else kept.new_zeros(1)
        logits_NV = self.student(**micro.inputs, logits_to_keep=kept).logits[micro.rows_N, at_N]
        return self._loss(micro, logits_NV, slice(None))

    def _hidden(self, micro: "Micro") -> Tensor:
        """Last hidden states [rows, columns, H]."""
        hidden: Tensor = self.student.get_decoder()(**micro.inputs).last_hidden_state
        return hidden

    def _loss(self, micro: "Micro", logits_NV: Tensor, at: slice) -> Tensor:
        soft = micro.soft[at] if micro.soft else None
        return (self.objective(logits_NV, micro.labels_N[at], soft) * micro.weights_N[at]).sum()

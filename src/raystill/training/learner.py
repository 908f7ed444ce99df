"""What DeepSpeed wraps: the student with its loss, so that one forward pass gives one number and no logits."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from raystill.losses.cross_entropy import cross_entropy
from raystill.training import causal, chunks
from raystill.training.dense import Dense
from raystill.training.objective import Objective

if TYPE_CHECKING:
    from raystill.training.batches import Micro
    from raystill.training.beside import Beside
    from raystill.training.causal import Positions
    from raystill.training.matching import Matching


class Learner(torch.nn.Module):
    """A causal language model of transformers, and what is minimised; with a live teacher also what that says."""

    def __init__(
        self, student: Any, objective: Objective, teacher: "Beside | None" = None, matching: "Matching | None" = None
    ) -> None:
        super().__init__()
        self.student, self.objective, self.teacher, self.matching = student, objective, teacher, matching
        self.chunked = self.text_only = False

    def look(self, micro: "Micro") -> None:
        """See whether logits need to exist only in chunks (`causal.headed`)."""
        self.student.eval()
        self.chunked = causal.headed(self.student, micro.inputs)
        self.student.train()

    def forward(self, micro: "Micro") -> Tensor:
        """Weighted sum of a micro-batch's token losses, computed at supervised positions alone.

        With `text_only` their cross-entropy, whatever is minimised.
        """
        matching, teacher = (None, None) if self.text_only else (self.matching, self.teacher)
        hidden, looks = (matching.hidden, matching.looks) if matching else ([], [])
        ours = causal.at(
            self.student, micro.inputs, micro.rows_N, micro.columns_N, self.chunked,
            [a for a, _ in hidden], [a for a, _ in looks],
        )  # fmt: skip
        theirs = None
        if teacher and micro.view:
            theirs = teacher(micro.view, [b for _, b in hidden], [b for _, b in looks])
        if ours.hidden_NH is not None and ours.head_VH is not None:
            total = chunks.summed(ours.hidden_NH, ours.head_VH, lambda z, at: self._loss(micro, theirs, z, at))
        else:
            total = self._loss(micro, theirs, ours.logits(slice(None)), slice(None))
        if matching and theirs and micro.view:
            total = total + (matching(ours, theirs, micro.view) * micro.weights_N).sum()
        return total

    def _loss(self, micro: "Micro", theirs: "Positions | None", logits_NV: Tensor, at: slice) -> Tensor:
        if self.text_only:
            return (cross_entropy(logits_NV, micro.labels_N[at]) * micro.weights_N[at]).sum()
        soft: Any = micro.soft[at] if micro.soft else None
        if theirs and micro.view and self.objective.divergence:
            soft = Dense(theirs.logits(at), micro.view.given_N[at], micro.view.everywhere)
        return (self.objective(logits_NV, micro.labels_N[at], soft) * micro.weights_N[at]).sum()

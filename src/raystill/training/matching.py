"""The student's layers held against a live teacher's: hidden states, and where attention looks. N = supervised positions."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from raystill import recipe
from raystill.training import relations
from raystill.training.causal import Positions
from raystill.training.documents import Heads
from raystill.training.layermap import layer_pairs
from raystill.training.live import Pair, View


class Matching(torch.nn.Module):
    """What `train.loss.layers` and `train.loss.attention` add to a loss; owns the projections, which learn with the student."""

    def __init__(self, loss: recipe.Loss, student: Any, teacher: Any) -> None:
        """`student` and `teacher` are the configurations of two transformers models."""
        super().__init__()
        self.layers, self.attention = loss.layers, loss.attention
        sizes = student.num_hidden_layers, teacher.num_hidden_layers
        self.hidden = layer_pairs(self.layers.map, *sizes) if self.layers else []
        self.looks = layer_pairs(self.attention.map, *sizes) if self.attention else []
        # As many heads as the paper's where both sides have as many; else the most that divide both sides' values.
        self.groups = math.gcd(*(getattr(c, "num_key_value_heads", c.num_attention_heads) for c in (student, teacher)))
        ours, theirs = student.hidden_size, teacher.hidden_size
        self.projections = torch.nn.ModuleList(_projection(ours, theirs) for _ in self.hidden if ours != theirs)

    def forward(self, ours: Positions, theirs: Positions, view: View) -> Tensor:
        """loss_N in float32, weighted; 0 where the teacher says nothing."""
        loss_N = torch.zeros_like(view.given_N)
        if self.layers:
            found = [self._hidden(i, ours.layers[a], theirs.layers[b]) for i, (a, b) in enumerate(self.hidden)]
            loss_N = loss_N + self.layers.weight * torch.stack(found).mean(0) * view.given_N
        if self.attention and view.pairs:
            at_N = torch.cat([torch.arange(p.supervised.start, p.supervised.stop) for p in view.pairs])
            found = [
                torch.cat([self._look(p, ours.heads[a], theirs.heads[b]) for p in view.pairs]) for a, b in self.looks
            ]
            loss_N = loss_N.index_add(0, at_N.to(loss_N.device), self.attention.weight * torch.stack(found).mean(0))
        return loss_N

    def _hidden(self, pair: int, ours_NH: Tensor, theirs_NH: Tensor) -> Tensor:
        """1 - cosine, or the mean squared difference, at each position."""
        assert self.layers
        ours_NH = self.projections[pair](ours_NH) if len(self.projections) else ours_NH
        if self.layers.measure == "cosine":
            return 1 - F.cosine_similarity(ours_NH.float(), theirs_NH.float(), dim=1)
        return (ours_NH.float() - theirs_NH.float()).square().mean(1)

    def _look(self, pair: Pair, ours: Heads, theirs: Heads) -> Tensor:
        """The distance of two layers' maps or value relations, at each of an example's supervised positions."""
        assert self.attention
        queries = pair.supervised.stop - pair.supervised.start
        teacher_HQC, student_HQC = (
            relations.maps(heads, at, queries, pair.shared)
            if self.attention.kind == "maps"
            else relations.values(heads, at, queries, pair.shared, self.groups)
            for heads, at in ((theirs, pair.theirs), (ours, pair.ours))
        )
        return relations.divergence(teacher_HQC, student_HQC, self.attention.measure)


def _projection(ours: int, theirs: int) -> torch.nn.Linear:
    """At first a rotation, with zeros or a cut: it keeps what the student's hidden states say of each other."""
    made = torch.nn.Linear(ours, theirs, bias=False)
    torch.nn.init.orthogonal_(made.weight)
    return made

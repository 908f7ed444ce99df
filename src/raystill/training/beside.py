"""A teacher in the train worker, beside the student: whole on every worker, frozen, in its machine's own precision."""

from collections.abc import Collection

import torch

from raystill.teachers import frozen
from raystill.training import causal, documents
from raystill.training.causal import Positions
from raystill.training.live import View


class Beside:
    """No Module, so that DeepSpeed neither shards nor saves it, and `train()` does not reach it."""

    def __init__(self, folder: str, device: torch.device, view: View) -> None:
        """`view` is what a first look at the model is taken with. Raises ModelError when the model cannot be loaded."""
        self.model = frozen.load(folder, device, attn_implementation=documents.register())
        self.headed = causal.headed(self.model, view.inputs)

    @torch.no_grad()
    def __call__(self, view: View, layers: Collection[int], heads: Collection[int]) -> Positions:
        """What it says at the student's supervised positions, and at the layers that are asked for."""
        rows_N = torch.zeros_like(view.columns_N)
        return causal.at(self.model, view.inputs, rows_N, view.columns_N, self.headed, layers, heads)

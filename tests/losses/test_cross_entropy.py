import math

import torch

from raystill import plugins
from raystill.losses import KINDS
from raystill.losses.cross_entropy import cross_entropy


def test_hand_worked_values() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]])
    losses = cross_entropy(logits, torch.tensor([1, 0]))
    assert torch.allclose(losses, torch.tensor([-math.log(0.75), math.log(2.0)]))


def test_bfloat16_logits_are_summed_in_fp32() -> None:
    logits = torch.zeros(1, 50_000, dtype=torch.bfloat16)
    losses = cross_entropy(logits, torch.tensor([7]))
    assert losses.dtype == torch.float32
    assert math.isclose(float(losses), math.log(50_000), rel_tol=1e-5)


def test_every_kind_loads() -> None:
    assert all(callable(plugins.load(kind, KINDS, "loss")) for kind in KINDS)

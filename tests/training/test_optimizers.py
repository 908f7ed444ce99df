import importlib.util

import pytest
import torch

from raystill import recipe
from raystill.errors import ResourceError
from raystill.training import optimizers


def test_fused_steps_are_those_of_adamw() -> None:
    moved = []
    for kind in ("adamw", "adamw_fused"):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.LayerNorm(7))
        optimizer = optimizers.build(model, recipe.Train(optimizer=kind, learning_rate=1e-2))
        assert bool(optimizer.defaults["fused"]) == (kind == "adamw_fused")
        for _ in range(3):
            model(torch.ones(2, 5)).pow(2).sum().backward()
            optimizer.step()
        moved.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(*moved)


def test_what_is_frozen_is_not_handed_over() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    model[0].requires_grad_(False)
    groups = optimizers.build(model, recipe.Train()).param_groups
    assert {id(p) for g in groups for p in g["params"]} == {id(p) for p in model[1].parameters()}


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_eight_bits_without_bitsandbytes_say_what_to_install() -> None:
    with pytest.raises(ResourceError, match="pip install bitsandbytes"):
        optimizers.build(torch.nn.Linear(2, 2), recipe.Train(optimizer="adamw_8bit"))

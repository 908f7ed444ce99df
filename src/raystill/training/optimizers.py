"""AdamW (arXiv 1711.05101) in the three forms that `train.optimizer` names."""

from typing import Any

import torch

from raystill import recipe
from raystill.errors import ResourceError


def build(model: torch.nn.Module, train: recipe.Train) -> torch.optim.Optimizer:
    """AdamW over what is trained; norms and biases are not decayed. Raises ResourceError without bitsandbytes for 8 bits."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": train.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    if train.optimizer == "adamw_8bit":
        made: torch.optim.Optimizer = _eight_bit()(groups, lr=train.learning_rate, betas=train.betas)
        return made
    fused = True if train.optimizer == "adamw_fused" else None
    return torch.optim.AdamW(groups, lr=train.learning_rate, betas=train.betas, fused=fused)


def _eight_bit() -> Any:
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as e:
        raise ResourceError(
            "train.optimizer: adamw_8bit needs bitsandbytes on the training nodes; type: pip install bitsandbytes"
        ) from e
    return AdamW8bit

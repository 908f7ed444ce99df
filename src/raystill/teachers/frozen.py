"""A model that only speaks: in evaluation mode, in the precision of its machine."""

from typing import Any

import torch

from raystill.errors import ModelError


def load(model: str, device: torch.device, **told: Any) -> Any:
    """A causal language model of transformers. Raises ModelError when it cannot be loaded."""
    from transformers import AutoModelForCausalLM

    # bfloat16 is 25 times slower than float32 on most CPUs.
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    try:
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, **told)
    except (OSError, ValueError) as e:
        raise ModelError(f"{model} cannot be loaded by transformers: {e}; check teacher.model") from e
    return loaded.requires_grad_(False).to(device).eval()

"""The student as a worker trains it: whole, with an adapter, or with an adapter over weights in 4 bits."""

from typing import Any

import torch

from raystill import recipe
from raystill.errors import ResourceError
from raystill.training import adapters, documents


def student(folder: str, train: recipe.Train, compute: recipe.Workers, device: torch.device) -> tuple[Any, int]:
    """The model and its number of parameters, an adapter's not counted. bf16 on GPUs, fp32 on CPUs.

    It stays on the CPU, for DeepSpeed to place or shard, unless it is quantised, which the GPU does.
    """
    from transformers import AutoModelForCausalLM

    quantised = train.lora is not None and train.lora.quantize is not None
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.bfloat16 if device.type == "cuda" else torch.float32,
        attn_implementation=documents.register() if train.packing else "sdpa",
        **({"quantization_config": four_bits(), "device_map": {"": device}} if quantised else {}),
    )
    parameters = model.num_parameters()
    if train.lora:
        adapters.attach(model, train.lora)
    if compute.activation_checkpointing:
        # Reentrant ones would hand back no gradient where an adapter's first layer sees frozen embeddings.
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model, parameters


def compile_layers(model: Any) -> None:
    """Have each decoder layer compiled at its first call, once for all lengths and all layers of a shape."""
    stacks = [part for part in model.get_decoder().children() if isinstance(part, torch.nn.ModuleList)]
    for layer in (layer for stack in stacks for layer in stack):
        layer.compile(dynamic=True)


def four_bits() -> Any:
    """nf4 with quantised scales, computed with in bf16, as in arXiv 2305.14314. Raises ResourceError without bitsandbytes."""
    import importlib.util

    from transformers import BitsAndBytesConfig

    if importlib.util.find_spec("bitsandbytes") is None:
        raise ResourceError(
            "train.lora.quantize: nf4 needs bitsandbytes on the training nodes; type: pip install bitsandbytes"
        )
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )

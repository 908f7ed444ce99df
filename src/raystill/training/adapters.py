"""LoRA: small matrices trained beside frozen weights (arXiv 2106.09685), and merged into them for the export.

y = W x + alpha / r B A x, where A is r x in and B out x r. The exported student is the model with W + alpha / r B A; A and B
alone are kept beside it in peft's format, so that several adapters can be served over one base.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raystill import recipe
from raystill.artifacts import Checkpoint
from raystill.errors import ModelError, RecipeError

NAME = "default"


def blank(folder: str) -> Any:
    """The model of a folder without weights: its modules, their names and shapes. Takes no memory."""
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError) as e:
        raise ModelError(
            f"{folder} is no model that transformers knows ({type(e).__name__}); give a folder with config.json as "
            "save_pretrained makes it"
        ) from e


def targets(model: Any, lora: recipe.Lora) -> list[str]:
    """What peft is told to adapt: the recipe's targets, else the last names of all linear layers but the head.

    Raises RecipeError for a target that is none of those layers.
    """
    layers = list(_linear(model))
    names = sorted({name.rpartition(".")[2] for name in layers})
    wrong = [t for t in lora.targets or [] if not any(f".{name}".endswith(f".{t}") for name in layers)]
    if wrong:
        raise RecipeError(
            f"train.lora.targets: a {model.config.model_type} model has no linear layer {', '.join(wrong)} (its head is none: "
            f"it stays as it is); it has {', '.join(names)}"
        )
    return lora.targets or names


def attach(model: Any, lora: recipe.Lora) -> None:
    """Freeze the model and put the adapter into it; B starts at 0, so the model says what it said before."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets(model, lora),
        task_type="CAUSAL_LM",
    )
    inject_adapter_in_model(config, model, NAME)


def detach(model: Any, state: dict[str, Tensor], folder: Path, base: Checkpoint) -> tuple[Any, dict[str, Tensor]]:
    """Write the adapter of a model whose weights are `state` into `folder`; the plain model, and its merged weights."""
    from peft.tuners.lora import LoraLayer
    from safetensors.torch import save_file

    own = {name: state.pop(name) for name in list(state) if ".lora_" in name}
    merged = {name.replace(".base_layer.", "."): tensor for name, tensor in state.items()}
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            a, b = (own[f"{name}.lora_{x}.{NAME}.weight"].float() for x in "AB")
            weight = merged[f"{name}.weight"]
            merged[f"{name}.weight"] = (weight.float() + layer.scaling[NAME] * (b @ a)).to(weight.dtype)
    folder.mkdir(parents=True)
    config = model.peft_config[NAME]
    config.base_model_name_or_path = base.url
    config.inference_mode = True
    config.save_pretrained(str(folder))
    named = {f"base_model.model.{name.replace(f'.{NAME}.', '.')}": tensor.contiguous() for name, tensor in own.items()}
    save_file(named, folder / "adapter_model.safetensors", {"format": "pt"})
    plain = blank(base.folder()).to(model.dtype)
    plain.generation_config = model.generation_config
    return plain, merged


def dense(parameter: Tensor) -> Tensor:
    """A weight as numbers, also where it is held in 4 bits."""
    packed = getattr(parameter, "quant_state", None)
    if packed is None:
        return parameter.detach()
    from bitsandbytes.functional import dequantize_4bit

    unpacked: Tensor = dequantize_4bit(parameter.data, packed)
    return unpacked


def _linear(model: Any) -> Iterator[str]:
    head = model.get_output_embeddings()
    return (n for n, layer in model.named_modules() if isinstance(layer, torch.nn.Linear) and layer is not head)

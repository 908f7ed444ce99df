"""Make the student before training: random weights, or layers cut from a larger model. It is also the baseline."""

import difflib
import re
from collections.abc import Mapping
from typing import Any

from raystill import recipe
from raystill.artifacts import Checkpoint, Outcome
from raystill.context import Context
from raystill.errors import ModelError

VERSION = 1
PER_LAYER = re.compile(r"(layer_types|.*_layers|.*_per_layer|.*_layer_types)")
"""Config keys whose lists hold one entry per decoder layer."""


def initialize(student: recipe.Student, base: Checkpoint, seed: int, context: Context) -> Outcome:
    """An untrained student as an exported model folder; `seed` draws its weights when they are random.

    Raises ModelError when the base or the asked-for shape cannot be used, ValueError for a student that is taken as it is.
    """
    from raystill.training import export

    context.progress.start(context.label, None, "models")
    folder = base.folder()
    if isinstance(student.init, recipe.Random):
        model = _random(folder, student.init.random, seed)
    elif isinstance(student.init, recipe.Cut):
        model = _cut(folder, student.init.layers)
    else:
        raise ValueError("a pretrained student is taken as it is")
    with export.attempt(context.url) as (path, name):
        facts = export.save(model, folder, path)
        export.reload(path, model.dtype)
        files = export.publish(path, name, context.url)
    return Outcome(kind="model", files=files, facts=facts | {"folder": name, "parameters": model.num_parameters()})


def _random(folder: str, changes: Mapping[str, Any], seed: int) -> Any:
    import torch
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig, AutoModelForCausalLM

    config = _config(folder)
    values = config.to_dict()
    for key in changes:
        if key not in values:
            near = difflib.get_close_matches(key, values, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"its config.json has {', '.join(sorted(values))}"
            raise ModelError(f"init.random.{key}: a {config.model_type} model has no such setting; {hint}")
    torch.manual_seed(seed)
    try:
        shaped = AutoConfig.for_model(**_follow(values, changes) | dict(changes))
        model = AutoModelForCausalLM.from_config(shaped, dtype=torch.float32)
    except (StrictDataclassError, ValueError, TypeError, RuntimeError, ZeroDivisionError) as e:
        raise ModelError(
            f"init.random makes no {config.model_type} model: {str(e).strip().splitlines()[-1].strip()} "
            "Mind that hidden_size must be a multiple of num_attention_heads, and that one of num_key_value_heads"
        ) from e
    return model


def _follow(values: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The base's settings less those that follow from changed ones and would now contradict them."""
    derived = set()
    if "num_hidden_layers" in changes:
        derived |= {k for k, v in values.items() if _per_layer(k, v, values["num_hidden_layers"])}
    if changes.keys() & {"hidden_size", "num_attention_heads"} and values.get("head_dim") == (
        values["hidden_size"] // values["num_attention_heads"]
    ):
        derived.add("head_dim")
    return {k: v for k, v in values.items() if k not in derived}


def _per_layer(key: str, value: Any, layers: int) -> bool:
    return PER_LAYER.fullmatch(key) is not None and isinstance(value, list) and len(value) == layers


def _cut(folder: str, keep: list[int]) -> Any:
    import torch

    _config(folder)
    model = _load(folder)
    count = model.config.num_hidden_layers
    if outside := [i for i in keep if not 0 <= i < count]:
        raise ModelError(f"init.layers: {outside} are not layers of {folder}, which has {count}: 0 to {count - 1}")
    if sorted(set(keep)) != keep:
        raise ModelError(f"init.layers: {keep} must rise and name each layer once; write {sorted(set(keep))}")
    holder = model.get_decoder()
    if not isinstance(getattr(holder, "layers", None), torch.nn.ModuleList) or len(holder.layers) != count:
        raise ModelError(
            f"init.layers: a {model.config.model_type} model does not keep its decoder layers in one list, so raystill "
            "cannot cut it; use init: {random: {…}}"
        )
    holder.layers = torch.nn.ModuleList([holder.layers[i] for i in keep])
    for key, value in model.config.to_dict().items():
        if _per_layer(key, value, count):
            setattr(model.config, key, [value[i] for i in keep])
    model.config.num_hidden_layers = len(keep)
    return model


def _config(folder: str) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as e:
        raise ModelError(
            f"{folder} is no model that transformers knows ({type(e).__name__}); give a folder with config.json as "
            "save_pretrained makes it, or a hub id"
        ) from e


def _load(folder: str) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    except (OSError, ValueError, KeyError) as e:
        raise ModelError(
            f"no weights can be read from {folder} ({type(e).__name__}); cutting layers needs safetensors beside "
            "config.json"
        ) from e


__all__ = ["VERSION", "initialize"]

"""Which engine hosts which models: one of its own each, or one for a base and all students that are adapters over it.

The weights of a base are then in memory once. Students before training are often equal, so they share it too. No Ray here.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from raystill import storage
from raystill.artifacts import ADAPTER, Checkpoint
from raystill.errors import RecipeError
from raystill.recipe import Serve

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's max_lora_rank may be."""
Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class Host:
    """One engine: the model it loads, its arguments, what else it answers to, and adapters over it by model name."""

    name: str
    model: Checkpoint
    engine: Arguments
    also: tuple[str, ...] = ()
    adapters: Mapping[str, Checkpoint] = field(default_factory=dict)

    def names(self) -> list[str]:
        """All models that it answers for."""
        return [self.name, *self.also, *self.adapters]


@dataclass(frozen=True)
class _Adapter:
    """An adapter as peft wrote it: the address of the model that it changes, its rank, and its folder."""

    base: str
    rank: int
    folder: Checkpoint


def hosts(models: Mapping[str, Checkpoint], engines: Mapping[str, Arguments], config: Serve) -> list[Host]:
    """The engines of these models, in their order; they are shared where the recipe's `serve.adapters` says so.

    Raises RecipeError when a model without an engine of its own is to have its own number of them.
    """
    own = {name: Host(name, model, engines[name]) for name, model in models.items()}
    if not config.adapters:
        return list(own.values())
    first: dict[str, str] = {}
    for name, host in own.items():
        first.setdefault(_weights(host.model.url, host.engine), name)
    found = {name: adapter for name, host in own.items() if (adapter := _adapter(host.model))}
    shared: dict[str, Host] = {}
    for name, host in own.items():
        adapter = found.get(name)
        base = first.get(_weights(adapter.base if adapter else host.model.url, host.engine), name)
        if base == name or base in found:
            shared.setdefault(name, host)
            continue
        if isinstance(config.replicas, dict) and name in config.replicas:
            raise RecipeError(f"serve.adapters: {name} has no engine of its own; write serve.replicas.{base} instead")
        over = shared.get(base, own[base])
        if adapter:
            shared[base] = replace(over, adapters={**over.adapters, name: adapter.folder}, engine=_wide(over, adapter))
        else:
            shared[base] = replace(over, also=(*over.also, name))
    return list(shared.values())


def _weights(url: str, engine: Arguments) -> str:
    return json.dumps([url, engine], sort_keys=True)


def _wide(over: Host, adapter: _Adapter) -> dict[str, Any]:
    """An engine's arguments with room for one more adapter."""
    rank = next(rank for rank in RANKS if rank >= max(adapter.rank, over.engine.get("max_lora_rank", 1)))
    return {**over.engine, "enable_lora": True, "max_loras": len(over.adapters) + 1, "max_lora_rank": rank}


def _adapter(model: Checkpoint) -> _Adapter | None:
    """The adapter that was merged into a model; None where there is none that gives the same answers over its base.

    One trained beside weights in 4 bits does not: merged, it lies over those weights as they were rounded.
    """
    folder = storage.join(model.place(), ADAPTER)
    config = storage.join(folder, "adapter_config.json")
    if model.manifest is None or not storage.exists(config):
        return None
    if model.manifest.config["train"]["lora"]["quantize"]:
        return None
    said = json.loads(storage.read(config))
    if said["r"] > RANKS[-1]:
        return None
    return _Adapter(said["base_model_name_or_path"], said["r"], Checkpoint(folder, f"{model.fingerprint}-{ADAPTER}"))

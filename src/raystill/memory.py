"""Whether a model fits its GPUs: weights from the folder's own files, KV cache of one longest row from its config.

Arithmetic only, before anything is loaded. What cannot be told (weights that are no safetensors, are quantised while they
load or lie in the CPU's memory) is left to the engine.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from raystill.engine import default_context, on_cluster
from raystill.errors import ModelError
from raystill.provenance import output

UTILIZATION = 0.92
"""Share of a GPU that vLLM takes unless gpu_memory_utilization says otherwise."""
BYTES = {"float32": 4, "float": 4, "bfloat16": 2, "float16": 2, "half": 2}
GB = 1e9


@dataclass(frozen=True)
class Need:
    """Bytes that one GPU of an engine must hold, and the tokens of the longest row that the cache is for: 0 when vLLM fits
    that to what the weights leave."""

    weights: float
    cache: float
    tokens: int

    def __str__(self) -> str:
        weights = f"{self.weights / GB:.1f} GB of weights"
        row = f" and {self.cache / GB:.1f} GB of cache for a row of {self.tokens} tokens"
        return weights + row if self.tokens else weights


def need(model: str, engine: Mapping[str, Any]) -> Need | None:
    """What each GPU must hold of a local folder under these engine arguments; None where that cannot be told."""
    folder = Path(model)
    try:
        whole: dict[str, Any] = json.loads((folder / "config.json").read_text())
        size = _weights(folder)
    except (OSError, ValueError):
        return None
    if not size or engine.get("quantization") or engine.get("cpu_offload_gb"):
        return None
    config = whole.get("text_config", whole)
    tensor, pipeline = int(engine.get("tensor_parallel_size", 1)), int(engine.get("pipeline_parallel_size", 1))
    stored, loaded = _value_bytes(config, engine)
    # A checkpoint that is quantised already is loaded as it is.
    scale = 1.0 if "quantization_config" in whole else loaded / stored
    asked = engine.get("max_model_len")
    reach = default_context({"max_position_embeddings": 0} | config)
    tokens = 0 if asked in (-1, "auto") else asked if isinstance(asked, int) else reach
    value_bytes = 1 if str(engine.get("kv_cache_dtype", "auto")).startswith("fp8") else 2
    row = tokens * value_bytes * _values_per_token(config, tensor, pipeline, tokens)
    return Need(size * scale / (tensor * pipeline), row, tokens)


def kv_bytes_per_token(model: str, engine: Mapping[str, Any]) -> float | None:
    """Bytes that an engine with these arguments caches for one token, over all its GPUs; None without a readable config."""
    try:
        whole: dict[str, Any] = json.loads((Path(model) / "config.json").read_text())
    except (OSError, ValueError):
        return None
    config = whole.get("text_config", whole)
    value_bytes = 1 if str(engine.get("kv_cache_dtype", "auto")).startswith("fp8") else _value_bytes(config, engine)[1]
    return (
        value_bytes * _values_per_token(config, 1, 1, default_context({"max_position_embeddings": 0} | config)) or None
    )


def _value_bytes(config: Mapping[str, Any], engine: Mapping[str, Any]) -> tuple[int, int]:
    """Bytes of a number as stored and as an engine loads it: vLLM's 'auto' halves float32."""
    stored = BYTES.get(str(config.get("dtype") or config.get("torch_dtype")), 2)
    return stored, BYTES.get(str(engine.get("dtype", "auto")), min(stored, 2))


def refuse(model: str, engine: Mapping[str, Any], gpu_bytes: int | None) -> None:
    """Raise ModelError with the arithmetic when a GPU of this size cannot hold its share; nothing is said without one."""
    wants = need(model, engine) if gpu_bytes else None
    usable = (gpu_bytes or 0) * float(engine.get("gpu_memory_utilization", UTILIZATION))
    if wants is None or wants.weights + wants.cache <= usable:
        return
    raise ModelError(
        f"{model} is too large: each GPU must hold {wants}, and vLLM may use {usable / GB:.1f} GB of it; spread it over "
        "more GPUs (compute.generate: {tensor_parallel: 2, …}), set a smaller engine.max_model_len, or take larger GPUs"
    )


@cache
def gpu_sizes() -> tuple[int, ...]:
    """Memory of each of this machine's GPUs, also where Ray hides them from this process."""
    sizes = output("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits") or ""
    return tuple(int(size) << 20 for size in sizes.split() if size.isdigit())


def gpu_bytes() -> int | None:
    """Memory of this machine's smallest GPU; None without one."""
    return min(gpu_sizes(), default=None)


def known_gpu_bytes() -> int | None:
    """As `gpu_bytes`, for who plans where engines run elsewhere: None on a cluster, whose nodes are not this machine."""
    return None if on_cluster() else gpu_bytes()


def peak_rss(process: int | str = "self") -> int:
    """Most memory that a process has held, in bytes: VmHWM; 0 when it is gone."""
    try:
        with open(f"/proc/{process}/status") as status:  # noqa: PTH123  one read of a kernel file
            line = next((text for text in status if text.startswith("VmHWM:")), "VmHWM: 0 kB")
    except OSError:
        return 0
    return int(line.split()[1]) * 1024


def _weights(folder: Path) -> int:
    """Bytes of the safetensors files that make the model: others beside them hold the same weights in another form."""
    index, there = folder / "model.safetensors.index.json", {p.name for p in folder.glob("*.safetensors")}
    named = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    return sum((folder / name).stat().st_size for name in there & named or there)


def _values_per_token(config: Mapping[str, Any], tensor: int, pipeline: int, tokens: int) -> float:
    """Numbers that one GPU caches for a token, averaged over a row of so many."""
    kinds = config.get("layer_types")
    layers = kinds.count("full_attention") if kinds else int(config.get("num_hidden_layers", 0))
    layers = math.ceil(layers / pipeline)
    if rank := config.get("kv_lora_rank"):  # latent attention: every tensor-parallel GPU holds all of it
        return float(layers * (rank + config.get("qk_rope_head_dim", 0)))
    heads = int(config.get("num_attention_heads", 0))
    if not heads:
        return 0.0
    of_keys = int(config.get("num_key_value_heads") or heads)
    size = int(config.get("head_dim") or config.get("hidden_size", 0) // heads)
    window = 1.0 if kinds else min(1.0, (config.get("sliding_window") or tokens) / max(1, tokens))
    return 2 * layers * math.ceil(of_keys / tensor) * size * window

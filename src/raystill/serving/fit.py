"""Whether models fit beside each other, before any of them is loaded. Arithmetic only."""

from collections.abc import Sequence

import psutil

from raystill import engine, memory
from raystill.errors import ResourceError
from raystill.memory import GB
from raystill.serving.sharing import Host

FEWER = (
    "host fewer: raystill serve RECIPE --model student takes one of them, evaluate: {together: false} compares one at a time, "
    "serve.adapters: true puts LoRA students over one base"
)


def refuse(hosts: Sequence[Host], counts: Sequence[int], gpu_bytes: int | None) -> None:
    """Raise ResourceError when a GPU of this size cannot hold its share of a model, or, where there is no GPU, this machine's
    free memory not all of them. What cannot be told (weights elsewhere, or in a form that is unpacked) is left to the engine.
    """
    if gpu_bytes:
        _per_gpu(hosts, gpu_bytes)
    else:
        _beside_each_other(hosts, counts, psutil.virtual_memory().available)


def _per_gpu(hosts: Sequence[Host], gpu_bytes: int) -> None:
    for host in hosts:
        asked = host.engine
        wants = memory.need(host.model.place(), asked)
        usable = gpu_bytes * float(asked.get("gpu_memory_utilization", memory.UTILIZATION))
        if wants and wants.weights + wants.cache > usable:
            wide = 2 * int(asked.get("tensor_parallel_size", 1))
            raise ResourceError(
                f"{host.name} is too large to host: each GPU must hold {wants}, and vLLM may use {usable / GB:.1f} GB of it; "
                f"spread it (serve.engine: {{tensor_parallel_size: {wide}}}), set a smaller serve.engine.max_model_len, or "
                "take larger GPUs"
            )


def _beside_each_other(hosts: Sequence[Host], counts: Sequence[int], free: int) -> None:
    cache = int(engine.environment(1, on_gpu=False)["VLLM_CPU_KVCACHE_SPACE"]) << 30
    lines, total = [], 0.0
    for host, count in zip(hosts, counts, strict=True):
        if wants := memory.need(host.model.place(), {"dtype": "float32", **host.engine}):
            times = f"{count} x " if count > 1 else ""
            lines.append(
                f"{host.name} {times}({wants.weights / GB:.1f} GB of weights and {cache / GB:.1f} GB of cache)"
            )
            total += count * (wants.weights + cache)
    if total > free:
        raise ResourceError(
            f"{' + '.join(lines)} = {total / GB:.1f} GB do not fit into this machine's {free / GB:.1f} GB of free memory; "
            f"{FEWER}; or lower the cache of each: export VLLM_CPU_KVCACHE_SPACE=1"
        )

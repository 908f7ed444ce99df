"""What of `train.deepspeed` cannot go with the ZeRO stage or the workers. Light: `plan` asks before anything runs.

DeepSpeed takes some of these silently (offloading without ZeRO does nothing, NVMe below stage 3 becomes CPU memory), and
stops at others after the model is loaded.
"""

import ast
import difflib
import importlib.util
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from raystill import recipe
from raystill.errors import Problem, ResourceError

ZERO = "zero_optimization"
HERE = f"train.deepspeed.{ZERO}"
STAGES = {"offload_optimizer": (1, 2, 3), "offload_param": (3,)}
"""ZeRO stages that shard what is to be offloaded."""
QUANTISED = ("zero_quantized_weights", "zero_quantized_gradients", "zero_quantized_nontrainable_weights")
"""ZeRO++ (arXiv 2306.10209): what is sent is sent in 8 or 4 bits, by CUDA kernels."""
SHARED = "zero_hpz_partition_size"
"""ZeRO++: workers of a node that hold a second copy of the weights among them."""


def device(keys: Mapping[str, Any], what: str) -> str | None:
    """Where `offload_optimizer` or `offload_param` puts things: cpu, nvme or None."""
    chosen = _block(_block(keys, ZERO), what).get("device", "none")
    return None if chosen == "none" else str(chosen)


def mistakes(
    keys: Mapping[str, Any], compute: recipe.Workers, workers: int | None, gpu: bool | None
) -> Iterator[Problem]:
    """Each impossible part of `train.deepspeed`; workers and gpu are None where they are not known yet."""
    zero = _block(keys, ZERO)
    blocks = {ZERO: keys.get(ZERO), **{what: zero.get(what) for what in STAGES}}
    for name in (name for name, value in blocks.items() if value is not None and not isinstance(value, Mapping)):
        yield Problem(HERE, f"{name} is a map of DeepSpeed's keys, this is none", f"{name}: {{…}}")
    yield from _unknown(zero, "DeepSpeedZeroConfig", HERE)
    for what, stages in STAGES.items():
        yield from _offloaded(what, stages, _block(zero, what), compute.zero)
    asked = [key for key in QUANTISED if zero.get(key)]
    share = zero.get(SHARED)
    share = share if isinstance(share, int) and share > 1 else 1
    for key in [*asked, *([SHARED] if share > 1 else [])]:
        if compute.zero != 3:
            yield _stage(f"{HERE}.{key}", f"{key} is part of ZeRO++, which shards weights", (3,), compute.zero)
    for key in asked if gpu is False else []:
        yield Problem(f"{HERE}.{key}", f"{key} needs a GPU: DeepSpeed's kernels for it are CUDA", "remove it")
    if workers and workers % share:
        fits = ", ".join(str(n) for n in range(1, workers + 1) if workers % n == 0)
        yield Problem(f"{HERE}.{SHARED}", f"{SHARED} {share} does not divide {workers} workers", f"take one of {fits}")


def require(keys: Mapping[str, Any]) -> None:
    """Raise ResourceError where this node cannot offload to NVMe; asked on a worker, since it imports DeepSpeed."""
    if "nvme" not in {device(keys, what) for what in STAGES}:
        return
    from deepspeed.ops.op_builder import AsyncIOBuilder

    if not AsyncIOBuilder().is_compatible(verbose=False):
        raise ResourceError(
            f"{HERE}: offloading to NVMe needs libaio on every training node, and here it is missing; type: apt install "
            "libaio-dev, or offload to the CPU with device: cpu"
        )


def _offloaded(what: str, stages: tuple[int, ...], block: Mapping[str, Any], stage: int) -> Iterator[Problem]:
    here = f"{HERE}.{what}"
    kind = "DeepSpeedZeroOffloadParamConfig" if what == "offload_param" else "DeepSpeedZeroOffloadOptimizerConfig"
    yield from _unknown(block, kind, here)
    chosen = block.get("device", "none")
    if chosen not in ("none", "cpu", "nvme"):
        yield Problem(f"{here}.device", f"{what} knows no device {chosen!r}", "device: cpu, nvme or none")
    elif chosen == "nvme" and stage != 3:
        yield _stage(f"{here}.device", f"{what} to NVMe moves shards of weights and optimizer", (3,), stage)
    elif chosen != "none" and stage not in stages:
        yield _stage(here, f"{what} moves what ZeRO shards", stages, stage)
    if chosen == "nvme" and not str(block.get("nvme_path") or "").startswith("/"):
        fix = f"{what}: {{device: nvme, nvme_path: /local_nvme}}, a folder on each node's own disk"
        yield Problem(f"{here}.nvme_path", f"{what} to NVMe needs an absolute nvme_path", fix)


def _block(keys: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = keys.get(name)
    return value if isinstance(value, Mapping) else {}


def _stage(where: str, why: str, stages: tuple[int, ...], stage: int) -> Problem:
    right = " or ".join(map(str, stages))
    return Problem(where, f"{why}, and compute.train.zero is {stage}", f"compute: {{train: {{zero: {right}}}}}")


def _unknown(block: Mapping[str, Any], kind: str, where: str) -> Iterator[Problem]:
    known = _known(kind) if block else frozenset()
    for key in block if known else ():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1, 0.5)
            fix = f"did you mean '{near[0]}'?" if near else "see DeepSpeed's configuration pages"
            yield Problem(f"{where}.{key}", f"DeepSpeed knows no {where.rpartition('.')[2]}.{key}", fix)


@cache
def _known(kind: str) -> frozenset[str]:
    """Keys of one of DeepSpeed's ZeRO blocks, read from its source: importing it takes seconds. Empty without DeepSpeed."""
    found = importlib.util.find_spec("deepspeed")
    if found is None or not found.submodule_search_locations:
        return frozenset()
    zero = Path(found.submodule_search_locations[0], "runtime", "zero")
    sources = [ast.parse((zero / name).read_bytes()).body for name in ("config.py", "offload_config.py")]
    (block,) = (n for body in sources for n in body if isinstance(n, ast.ClassDef) and n.name == kind)
    fields = [line for line in block.body if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)]
    names = {line.target.id for line in fields if isinstance(line.target, ast.Name)}
    calls = (line.value for line in fields if isinstance(line.value, ast.Call))
    aliases = {
        word.value.value
        for call in calls
        for word in call.keywords
        if word.arg == "alias" and isinstance(word.value, ast.Constant)
    }
    return frozenset(names | {str(alias) for alias in aliases})

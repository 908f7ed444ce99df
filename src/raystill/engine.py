"""How a vLLM engine is fitted to the machine it starts on; the teacher and the endpoints both use it.

No vLLM here: these are the arguments and the environment an engine process is started with.
"""

import ast
import difflib
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from raystill.errors import ModelError, RecipeError
from raystill.provenance import HARDWARE

OWNED = {
    "model": "teacher.model or student.model",
    "tokenizer": "teacher.model or student.model",
    "served_model_name": "the model's name in the recipe",
    "seed": "teacher.sampling.seed",
    "trust_remote_code": "nothing: code from a model folder is never run",
}
"""Engine arguments that raystill sets itself, and the recipe line that decides them."""

SERVED = frozenset({"enable_auto_tool_choice", "tool_call_parser", "reasoning_parser"})
"""Arguments of vLLM's server around an engine, which say how a model writes its tool calls and thoughts."""

CPU_CONTEXT = 4096
"""Longest context that an engine on CPU plans for unless told: 1 GiB of KV cache then holds several sequences."""


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA driver."""
    return shutil.which("nvidia-smi") is not None


def on_cluster() -> bool:
    """Whether engines run elsewhere, as RAY_ADDRESS or a driver's pod says: what this machine has tells nothing of it."""
    return "RAY_ADDRESS" in os.environ or HARDWARE in os.environ


def gpus(engine: Mapping[str, Any], on_gpu: bool) -> int:
    """GPUs of one engine: its tensor times its pipeline parallelism, 0 where there are none."""
    if not on_gpu:
        return 0
    return int(engine.get("tensor_parallel_size", 1)) * int(engine.get("pipeline_parallel_size", 1))


def in_placement_group() -> bool:
    """Whether this process is an actor whose placement group vLLM's workers are to fill."""
    ray = sys.modules.get("ray")
    return ray is not None and ray.is_initialized() and ray.util.get_current_placement_group() is not None


def refuse_owned(engine: Mapping[str, Any], where: str) -> None:
    """Raise RecipeError for an engine argument that raystill sets itself."""
    for key in engine:
        if key in OWNED:
            raise RecipeError(f"{where}.{key} is set by raystill; change {OWNED[key]} instead and remove this key")


def refuse_unknown(engine: Mapping[str, Any], where: str) -> None:
    """Raise RecipeError for an argument that the installed vLLM does not know."""
    known = _known_arguments() if engine else frozenset()
    for key in engine if known else ():
        if key not in known and not (key in SERVED and where.startswith("serve.")):
            near = difflib.get_close_matches(key, known, 1, 0.5)
            hint = f"did you mean '{near[0]}'?" if near else "see vLLM's engine arguments"
            raise RecipeError(f"{where}.{key} is no vLLM engine argument; {hint}")


@cache
def _known_arguments() -> frozenset[str]:
    """Fields of vLLM's argument classes, read from their source: importing vLLM takes seconds. Empty without vLLM."""
    found = importlib.util.find_spec("vllm")
    if found is None or not found.submodule_search_locations:
        return frozenset()
    source = Path(found.submodule_search_locations[0], "engine", "arg_utils.py")
    classes = [
        node
        for node in ast.parse(source.read_bytes()).body
        if isinstance(node, ast.ClassDef) and node.name in ("EngineArgs", "AsyncEngineArgs")
    ]
    fields = (line.target for made in classes for line in made.body if isinstance(line, ast.AnnAssign))
    return frozenset(field.id for field in fields if isinstance(field, ast.Name))


def environment(cpus: int, on_gpu: bool) -> dict[str, str]:
    """Environment of an engine process with so many cores.

    Ray sets OMP_NUM_THREADS to the actor's num_cpus, and vLLM on CPU follows it: an engine without its cores runs at
    0.64 of its speed on two of them.
    """
    quiet = {
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if on_gpu:
        return quiet
    return quiet | {
        "OMP_NUM_THREADS": str(cpus),
        "VLLM_CPU_KVCACHE_SPACE": os.environ.get("VLLM_CPU_KVCACHE_SPACE", "1"),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_CPU_CI_ENV": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }


def arguments(model: str, engine: Mapping[str, Any], on_gpu: bool | None = None) -> dict[str, Any]:
    """vLLM engine arguments for a model folder or hub id: the machine's defaults, then the recipe's own.

    `on_gpu` says what the engine will find, None that it starts on this machine.
    """
    if has_gpu() if on_gpu is None else on_gpu:
        spread = {"distributed_executor_backend": "ray"} if in_placement_group() else {}
        return {"model": model, **spread, **engine}
    fitted = {
        "dtype": "float32",
        "enforce_eager": True,
        "max_model_len": min(context_length(model), CPU_CONTEXT),
        # A seeded row whose prompt is split over two steps ends vLLM 0.29 on CPU ("CPU Generator does not use offset").
        "enable_chunked_prefill": False,
    }
    return {"model": model, **fitted, **engine}


def context_tokens(model: str, engine: Mapping[str, Any]) -> int:
    """Tokens of prompt and answer that an engine with these arguments takes, where it will run."""
    asked = engine.get("max_model_len")
    if isinstance(asked, int) and asked > 0:
        return asked
    reach = default_context(_config(model)) if Path(model).is_dir() else CPU_CONTEXT
    return reach if has_gpu() or on_cluster() else min(reach, CPU_CONTEXT)


def default_context(config: Mapping[str, Any]) -> int:
    """Tokens that vLLM plans for unless max_model_len says otherwise: longrope's are those before scaling."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    reach = int(config.get("max_position_embeddings", CPU_CONTEXT))
    scaled = (rope.get("rope_type") or rope.get("type")) in ("longrope", "su")
    return int(config.get("original_max_position_embeddings", reach)) if scaled else reach


def context_length(model: str) -> int:
    """Tokens that the model's positions reach, from its config.json; CPU_CONTEXT for a hub id."""
    return int(_config(model).get("max_position_embeddings", CPU_CONTEXT)) if Path(model).is_dir() else CPU_CONTEXT


def _config(model: str) -> dict[str, Any]:
    """A folder's config.json, or what that says of the language model in one that also sees."""
    try:
        config: dict[str, Any] = json.loads((Path(model) / "config.json").read_text())
    except (OSError, ValueError) as e:
        raise ModelError(f"{model} has no readable config.json; give a folder as transformers saves it") from e
    text: dict[str, Any] = config.get("text_config", config)
    return text

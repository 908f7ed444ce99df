"""The only DeepSpeed dict. Light to import: `plan` refuses owned keys before anything is installed on a GPU."""

import os
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

OWNED: dict[str, str] = {
    "train_batch_size": "train.batch_size",
    "train_micro_batch_size_per_gpu": "compute.train.micro_tokens",
    "gradient_accumulation_steps": "compute.train.micro_tokens",
    "managed_gradient_accumulation": "compute.train.micro_tokens",
    "gradient_clipping": "train.clip",
    "optimizer": "train.optimizer, train.learning_rate, train.betas and train.weight_decay",
    "scheduler": "train.schedule and train.warmup",
    "fp16": "nothing: bf16 on GPUs, fp32 on CPUs",
    "bf16": "nothing: bf16 on GPUs, fp32 on CPUs",
    "amp": "nothing: bf16 on GPUs, fp32 on CPUs",
    "zero_optimization.stage": "compute.train.zero",
    "check_grad_overflow": "nothing: without it a NaN gradient destroys the weights",
    "zero_optimization.compute_grad_norm": "nothing: without it nothing is clipped, and a NaN gradient destroys the weights",
}
"""DeepSpeed keys that raystill sets, and the recipe line that decides each."""

BUCKET = 50_000_000
"""Most gradient elements reduced at once. DeepSpeed's own 5e8 is a 2 GB buffer per worker, whatever the model's size."""


def refuse_owned(keys: Mapping[str, Any]) -> list[str]:
    """One line for each key of `train.deepspeed` that raystill sets itself; empty when all is well."""
    paths = [str(key) for key in keys]
    paths += [f"{key}.{inner}" for key, value in keys.items() if isinstance(value, Mapping) for inner in value]
    return [
        f"train.deepspeed.{path} is set by raystill, so that a loss means the same everywhere; "
        f"change {OWNED[path]} instead and remove this key"
        for path in paths
        if path in OWNED
    ]


def settings(
    stage: int, clip: float, workers: int, parameters: int, gpu: bool, extra: Mapping[str, Any]
) -> dict[str, Any]:
    """The dict for `deepspeed.initialize`; `extra` is the recipe's own.

    Accumulation is 1 for DeepSpeed: micro-batches differ in size, so the loop scales each by the tokens of the whole batch
    and says itself which one is the last.
    """
    bucket = max(1, min(parameters, BUCKET))
    ours: dict[str, Any] = {
        "train_batch_size": workers,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": clip,
        "bf16": {"enabled": gpu},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "stage": stage,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
            "stage3_prefetch_bucket_size": bucket,
            "overlap_comm": gpu,
        },
        "steps_per_print": 2**31,
    }
    return _merged(ours, extra)


def _merged(ours: dict[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(ours)
    for key, value in extra.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def environment(gpu: bool) -> Path:
    """Set what DeepSpeed reads from the environment, before it is imported; the folder of its compiled ops.

    They are kept from run to run, since compiling one takes a minute, and apart by interpreter and torch.
    """
    if not gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    # The ops' build tool, ninja, lies beside the interpreter, which need not be on PATH.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    made_for = f"py{sys.version_info.major}{sys.version_info.minor}-torch{version('torch')}"
    default = Path("~/.cache/raystill/torch_extensions").expanduser() / made_for
    folder = Path(os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(default)))
    folder.mkdir(parents=True, exist_ok=True)
    return folder

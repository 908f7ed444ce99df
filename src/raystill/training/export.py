"""A model folder as transformers writes it: safetensors, tokenizer and generation config, proved by loading it again.

A folder lies in an attempt's own subfolder of the artifact, which the stage's facts name, so one that was interrupted is
never seen.
"""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from raystill import chat, storage
from raystill.artifacts import File, describe_folder
from raystill.errors import ModelError, StageError

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""Largest difference of any logit between the trained engine and the reloaded folder, relative to the largest logit when
that is above 1. fp32 differs by the order of sums alone; bf16 carries 8 bits of mantissa."""


@dataclass(frozen=True)
class Exported:
    """A published model folder: its name below the artifact, its files, and what a manifest should say of it."""

    folder: str
    files: list[File]
    facts: dict[str, Any]


@contextmanager
def attempt(url: str) -> Iterator[tuple[Path, str]]:
    """A local folder to write a model into, and its name below `url`. A half-written one is removed on an error."""
    name = f"model-{uuid.uuid4().hex[:12]}"
    if storage.is_s3(url):
        with TemporaryDirectory(prefix="raystill-export-") as scratch:
            yield Path(scratch) / name, name
        return
    folder = Path(url) / name
    try:
        yield folder, name
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def save(model: Any, base: str, folder: Path, state: dict[str, Tensor] | None = None) -> dict[str, Any]:
    """Write weights, the tokenizer of `base` and a generation config that stops where the template does; its facts.

    `state` are the weights when the model's own tensors are sharded.
    """
    tokenizer = chat.load_tokenizer(base)
    # Where the template ends a turn with another token than eos, an engine must stop there too.
    eos = model.generation_config.eos_token_id
    stops = {*(eos if isinstance(eos, list) else [eos]), tokenizer.eos_token_id, chat.stop_id(tokenizer)} - {None}
    model.generation_config.eos_token_id = sorted(stops) if len(stops) > 1 else stops.pop()
    model.save_pretrained(folder, **({"state_dict": state} if state is not None else {}))
    tokenizer.save_pretrained(folder)
    return {"tokenizer": chat.fingerprint(tokenizer), "template": chat.template_hash(tokenizer)}


def reload(folder: Path, dtype: torch.dtype) -> Any:
    """The saved model in plain transformers. Raises ModelError unless every weight is there and none is left over."""
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    wrong = {kind: sorted(map(str, names)) for kind, names in info.items() if names}
    if wrong:
        raise ModelError(
            f"the saved model does not load back whole: {wrong}; this architecture keeps weights that raystill does not "
            "know how to save; use another student"
        )
    return model.eval()


def compare(folder: Path, ids: list[int], logits_TV: Tensor) -> float:
    """Largest difference between given logits for T ids and those of the saved folder, in TOLERANCE's measure.

    Raises StageError when it is above the tolerance: then what would be served is not what was trained.
    """
    model = reload(folder, logits_TV.dtype)
    with torch.no_grad():
        again_TV = model(torch.tensor([ids]), use_cache=False).logits[0]
    scale = max(1.0, float(logits_TV.abs().max()))
    difference = float((again_TV.float() - logits_TV.float().cpu()).abs().max()) / scale
    if not difference <= TOLERANCE[logits_TV.dtype]:
        raise StageError(
            f"the exported model answers otherwise than the trained one (logits differ by {difference:.2g}, allowed "
            f"{TOLERANCE[logits_TV.dtype]:.0e}); it was not published. Run the same command again; if it stays, report it"
        )
    return difference


def publish(folder: Path, name: str, url: str) -> list[File]:
    """Bring a written folder below `url` and describe its files."""
    if storage.is_s3(url):
        storage.upload(folder, storage.join(url, name))
    return [replace(f, path=f"{name}/{f.path}") for f in describe_folder(folder)]

"""A checkpoint of some workers, loaded by as many others: through DeepSpeed's universal format, in which parameters and
optimizer states are whole.

The global batch stays as it is, so the run goes on as if nothing had changed, but for the order of sums. Between the
groups of STAGES states are kept in ways that DeepSpeed cannot convert.
"""

import contextlib
import io
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from raystill.errors import ResourceError, StageError
from raystill.training import checkpoints
from raystill.training.checkpoints import Layout, Saved

TAG = "state"
"""DeepSpeed's subfolder of a checkpoint."""
STAGES = ((0,), (1, 2), (3,))


def save(engine: Any, folder: str) -> None:
    """Write one worker's files of a checkpoint; what is frozen is read from the student's own folder again."""
    engine.save_checkpoint(folder, tag=TAG, save_latest=False, exclude_frozen_parameters=True)


def load(engine: Any, url: str, saved: Saved, layout: Layout) -> None:
    """Load a checkpoint into every worker's engine. Raises ResourceError when it does not fit into this layout."""
    check(url, saved, layout)
    folder = Path(checkpoints.fetch(url, saved))
    # ZeRO 0 keeps everything in one file, whoever wrote it.
    convert = saved.layout.zero > 0 and saved.layout != layout
    if convert:
        folder = _universal(folder, saved)
    hyperparameters = [{k: v for k, v in group.items() if k != "params"} for group in engine.optimizer.param_groups]
    engine._config.load_universal_checkpoint = convert
    # What is frozen is not in it.
    strict = all(parameter.requires_grad for parameter in engine.module.parameters())
    path, _ = engine.load_checkpoint(str(folder), tag=TAG, load_module_strict=strict)
    if path is None:
        raise StageError(f"DeepSpeed cannot load checkpoint {saved.name}; remove {url} to train from the beginning")
    if convert:
        # ZeRO 3 gives all groups the first one's weight decay, and all states one step tensor, which each then raises.
        for group, own in zip(engine.optimizer.param_groups, hyperparameters, strict=True):
            group.update(own)
        for state in engine.optimizer.state.values():
            state["step"] = torch.as_tensor(state["step"]).clone()
    dist.barrier()
    checkpoints.release(url, saved)
    if convert and dist.get_node_local_rank() == 0:
        shutil.rmtree(folder)


def check(url: str, saved: Saved, layout: Layout) -> None:
    """Raise ResourceError where a checkpoint can never fit."""
    if not any({saved.layout.zero, layout.zero} <= set(group) for group in STAGES):
        raise ResourceError(
            f"this training stopped at step {saved.step} with ZeRO {saved.layout.zero}, and now has ZeRO {layout.zero}, which "
            f"keeps the optimizer's state in another way. Set compute.train.zero: {saved.layout.zero} to resume, or remove "
            f"{url} to train from the beginning"
        )


def _universal(folder: Path, saved: Saved) -> Path:
    """The checkpoint in the universal format, on this machine: one of its workers converts, the others wait."""
    from deepspeed.checkpoint import ds_to_universal

    target = checkpoints.cache(f"{saved.name}.universal")
    if dist.get_node_local_rank() == 0:
        shutil.rmtree(target, ignore_errors=True)
        options = {"num_extract_workers": 1, "num_merge_workers": 1, "keep_temp_folder": False, "strict": True}
        files = {"input_folder": str(folder / TAG), "output_folder": str(target / TAG)}
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                ds_to_universal.main(Namespace(**files, **options, inject_missing_state=True))
        except KeyError as e:
            raise ResourceError(
                f"this training stopped with {saved.layout}, and only the state of AdamW in 32 bits fits other workers "
                f"({e} is missing). Set compute.train.workers: {saved.layout.workers} and compute.train.zero: "
                f"{saved.layout.zero} to resume"
            ) from e
    dist.barrier()
    return target

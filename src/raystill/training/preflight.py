"""Two real optimizer steps at the longest batch, before a training is started: `python -m raystill.training.preflight FILE`.

The second step is the full one: only the first one's end makes the optimizer's moments, and only a second micro-batch finds
gradients beside its activations. It runs in processes of its own, so that one that is killed for memory is only that.
"""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raystill import recipe
from raystill.artifacts import Checkpoint
from raystill.chat import Encoded
from raystill.errors import StageError

TRIAL, SAID = "trial.json", "said.txt"
KILLED = "SIGKILL"
"""What torch's spawn says of a worker that the kernel ended, which is what happens where memory is at its end."""


@dataclass(frozen=True)
class Trial:
    """What is tried: a training with so many workers on this machine."""

    train: recipe.Train
    compute: recipe.Workers
    student: str
    """Its folder."""
    workers: int
    threads: int
    gpu: bool
    teacher: str | None = None
    """The folder of one that is live."""


@dataclass(frozen=True)
class Seen:
    """Most memory that each worker held, in bytes; `fits` is False where there was no more to be had."""

    peaks: list[int]
    fits: bool


def run(trial: Trial, timeout_s: float = 1800.0) -> Seen:
    """Try it. Raises StageError when it fails for another reason than memory."""
    with tempfile.TemporaryDirectory(prefix="raystill-preflight-") as folder:
        store(trial, folder)
        with (Path(folder) / SAID).open("w") as said:
            command = [sys.executable, "-m", "raystill.training.preflight", folder]
            done = subprocess.run(command, stdout=said, stderr=said, timeout=timeout_s, check=False)
        seen: list[dict[str, Any]] = [json.loads(p.read_text()) for p in sorted(Path(folder).glob("peak-*.json"))]
        if len(seen) == trial.workers and done.returncode == 0:
            return Seen([s["peak"] for s in seen], all(s["fits"] for s in seen))
        said_last = (Path(folder) / SAID).read_text().strip().splitlines()[-1:]
        if KILLED in "".join(said_last):
            return Seen([s["peak"] for s in seen], fits=False)
        raise StageError(f"two trial steps failed: {''.join(said_last) or f'exit code {done.returncode}'}")


def store(trial: Trial, folder: str) -> None:
    """Leave a trial in a folder, for another process."""
    blocks = {"train": trial.train.model_dump(mode="json"), "compute": trial.compute.model_dump(mode="json")}
    (Path(folder) / TRIAL).write_text(json.dumps(vars(trial) | blocks))


def load(folder: str) -> Trial:
    """The trial of a folder."""
    said = json.loads((Path(folder) / TRIAL).read_text())
    blocks = {
        "train": recipe.Train.model_validate(said["train"]),
        "compute": recipe.Workers.model_validate(said["compute"]),
    }
    return Trial(**said | blocks)


def longest(train: recipe.Train, compute: recipe.Workers) -> list[int]:
    """Lengths of the examples that fill one micro-batch to its limit, as long as they come."""
    return [train.max_length] * max(1, compute.micro_tokens // train.max_length)


def attempt(rank: int, folder: str) -> None:
    """One worker: a step of one full micro-batch, then one of two."""
    import torch
    import torch.distributed as dist

    from raystill.training import gauges, loop, zero

    trial = load(folder)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(trial.workers))
    zero.environment(trial.gpu)
    device = torch.device("cuda", rank) if trial.gpu else torch.device("cpu")
    if trial.gpu:
        torch.cuda.set_device(device)
    backend, where = "nccl" if trial.gpu else "gloo", f"file://{folder}/store"
    dist.init_process_group(backend, init_method=where, rank=rank, world_size=trial.workers)
    fits = True
    try:
        student = Checkpoint(trial.student, "trial")
        job = loop.Job(
            trial.train, 1.0, trial.compute, student, folder, "trial", trial.gpu, trial.threads, board=None,
            live=Checkpoint(trial.teacher, "teacher") if trial.teacher else None,
        )  # fmt: skip
        worker = loop.start(job)
        micro = len(longest(trial.train, trial.compute)) * trial.workers
        for step, examples in enumerate((micro, 2 * micro)):
            loop.one_step(worker, np.arange(examples), step, rate=0.0, stop=False)
    except torch.cuda.OutOfMemoryError:
        fits = False
    (Path(folder) / f"peak-{rank}.json").write_text(json.dumps({"peak": gauges.peak_bytes(device), "fits": fits}))


def main(folder: str) -> None:
    """Store the longest batch, and start the workers."""
    import torch.multiprocessing as mp

    from raystill.training import batches, live
    from raystill.training.soft import Span

    trial = load(folder)
    lengths = longest(trial.train, trial.compute) * 2 * trial.workers
    # The last token of an example is only ever predicted.
    starts = np.cumsum([0, *(n + 2 for n in lengths)])
    spans = [Span(int(start), 0, n) if trial.teacher else Span() for start, n in zip(starts, lengths, strict=False)]
    whole = [Encoded([1] * (n + 1), [False, *[True] * n]) for n in lengths]
    batches.store(f"{folder}/work/trial", (("train", e, 1.0, span) for e, span in zip(whole, spans, strict=True)))
    if trial.teacher:  # which sees what the student sees
        seen = [[len(e.input_ids), *e.input_ids] for e in whole]
        np.concatenate(seen).astype("<i4").tofile(f"{folder}/work/trial/{live.FILE}")
    mp.spawn(attempt, (folder,), nprocs=trial.workers)  # type: ignore[attr-defined, no-untyped-call]


if __name__ == "__main__":
    main(sys.argv[1])

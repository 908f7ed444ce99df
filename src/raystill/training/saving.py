"""How a worker's checkpoints reach storage while it trains on.

Training waits only while the engine's files are written to disk. A thread then hashes and uploads them; when every worker's
are there, the first worker writes the manifest. The threads speak over a process group of their own, and at most one
checkpoint is on its way. One that fails is said and leaves those before it as they are; the next is tried all the same.
"""

import dataclasses
import json
import shutil
import tempfile
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from raystill import storage
from raystill.artifacts import MANIFEST, File, describe_folder
from raystill.errors import StorageError
from raystill.training import checkpoints
from raystill.training.checkpoints import Layout, Saved

KEEP = 2
"""Checkpoints of one attempt that are kept: the newest, and one to fall back on."""
SLOWEST = timedelta(hours=12)
"""Longest that one worker's upload may take more than another's."""


class Saver:
    """One worker's checkpoints of one attempt. Every worker makes it, and calls it, in lockstep."""

    def __init__(self, url: str, attempt: str, say: Callable[[str], object]) -> None:
        self._url, self._attempt, self._say = url, attempt, say
        self._group: Any = dist.new_group(backend="gloo", timeout=SLOWEST)
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._running: Future[str | None] | None = None

    def save(
        self,
        step: int,
        layout: Layout,
        state: dict[str, Any],
        curve: list[dict[str, Any]],
        best: int | None,
        write: Callable[[str], object],
    ) -> None:
        """Write a checkpoint's files with `write(folder)` and begin to store them, once the one before is stored.

        `best` is the step of one that is kept. Raises StorageError when this machine has no room for the files.
        """
        self.wait()
        unique = [uuid.uuid4().hex[:8]]
        dist.broadcast_object_list(unique, src=0)
        saved = Saved(f"step-{step:08d}.{self._attempt}.{unique[0]}", step, layout, state, list(curve), [])
        folder = Path(storage.join(self._url, saved.name))
        if storage.is_s3(self._url):
            folder = Path(tempfile.mkdtemp(prefix="raystill-checkpoint-"))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write(str(folder))
        except (OSError, RuntimeError) as e:
            if not _is_full(e):
                raise
            raise StorageError(
                f"the checkpoint after step {step} cannot be written to {folder} ({e}); free space there and run the same "
                "command, which goes on from the checkpoint before"
            ) from e
        self._running = self._thread.submit(self._store, saved, folder, best)

    def wait(self) -> str | None:
        """Until nothing is on its way. Why the newest checkpoint is not stored, for all workers alike; None when it is."""
        return self._running.result() if self._running else None

    def _store(self, saved: Saved, folder: Path, best: int | None) -> str | None:
        files: list[File] = []
        reason = None
        try:
            if storage.is_s3(self._url):
                files = describe_folder(folder)
                storage.upload(folder, storage.join(self._url, saved.name))
                shutil.rmtree(folder)
            else:
                dist.barrier(self._group)
                files = _share(folder)
        except (StorageError, OSError) as e:
            reason = str(e)
        told: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(told, (files, reason), group=self._group)
        failed = [next((reason for _, reason in told if reason), None)]
        if dist.get_rank() == 0 and not failed[0]:
            listed = sorted({f.path: f for files, _ in told for f in files}.values(), key=lambda f: f.path)
            try:
                self._publish(dataclasses.replace(saved, files=listed), best)
            except StorageError as e:
                failed = [str(e)]
        dist.broadcast_object_list(failed, src=0, group=self._group)
        if failed[0] and dist.get_rank() == 0:
            self._say(f"the checkpoint after step {saved.step} is not stored: {failed[0]}")
        return failed[0]

    def _publish(self, saved: Saved, best: int | None) -> None:
        """Write the manifest, then drop what is older than the newest two of this attempt, and not the best."""
        manifest = json.dumps(dataclasses.asdict(saved)).encode()
        storage.put_if_absent(storage.join(self._url, saved.name, MANIFEST), manifest)
        ours = [name for name in checkpoints.names(self._url) if checkpoints.attempt_of(name) == self._attempt]
        whole = sorted(n for n in ours if storage.exists(storage.join(self._url, n, MANIFEST)))
        for name in set(ours) - set(whole[-KEEP:]):
            if checkpoints.step_of(name) != best:
                checkpoints.discard(storage.join(self._url, name))


def _share(folder: Path) -> list[File]:
    """Every so-manieth file of a shared folder, hashed: the workers split the reading."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())[dist.get_rank() :: dist.get_world_size()]
    return [File(p.relative_to(folder).as_posix(), 0, p.stat().st_size, storage.sha256_file(p)) for p in files]


def _is_full(error: Exception) -> bool:
    """Whether a file could not be written; a lost peer raises a RuntimeError too. torch's writer has no class of its own."""
    return isinstance(error, OSError) or "PytorchStreamWriter" in str(error) or "inline_container" in str(error)

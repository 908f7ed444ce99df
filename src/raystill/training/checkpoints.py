"""Checkpoints of a run in progress: a folder of every worker's files, and a manifest with their sha256 written last.

    <url>/step-00000200.<attempt>.<save>/…DeepSpeed's files…
    <url>/step-00000200.<attempt>.<save>/manifest.json      its presence means complete

An attempt is one driver's run. Each save has a name of its own, since a run that lost a worker comes by a step again.

DeepSpeed's own `latest` file is not used: it is written in place and says nothing about completeness. A checkpoint that is
torn or damaged is passed over and the one before it taken. Reading one runs pickle, so only files whose checksum the
manifest lists are ever read.
"""

import dataclasses
import json
import shutil
import tempfile
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from raystill import storage
from raystill.artifacts import MANIFEST, File, describe_folder
from raystill.errors import ResourceError

KEEP = 2
"""Checkpoints of one attempt that are kept: the newest, and one to fall back on."""
TAG = "state"


@dataclass(frozen=True)
class Layout:
    """What a sharded checkpoint is tied to: DeepSpeed cannot load it into another number of workers or ZeRO stage."""

    workers: int
    zero: int


@dataclass(frozen=True)
class Saved:
    """A complete checkpoint. `state` is where the run stood; `curve` its training curve so far."""

    name: str
    step: int
    layout: Layout
    state: dict[str, Any]
    curve: list[dict[str, Any]]
    files: list[File]


def save(
    url: str,
    attempt: str,
    step: int,
    layout: Layout,
    state: dict[str, Any],
    curve: list[dict[str, Any]],
    write: Callable[[str], None],
) -> None:
    """Store a checkpoint; every worker calls it, `write(folder)` writes that worker's files. Then drop old ones."""
    unique = [uuid.uuid4().hex[:8]]
    dist.broadcast_object_list(unique, src=0)
    name = f"step-{step:08d}.{attempt}.{unique[0]}"
    folder = storage.join(url, name)
    rank = dist.get_rank()
    if storage.is_s3(url):
        with tempfile.TemporaryDirectory(prefix="raystill-checkpoint-") as staging:
            write(staging)
            files = describe_folder(Path(staging))
            storage.upload(Path(staging), folder)
    else:
        Path(folder).mkdir(parents=True, exist_ok=True)
        write(folder)
        dist.barrier()
        files = _share(Path(folder), rank, layout.workers)
    shares: list[list[File] | None] = [None] * layout.workers
    dist.all_gather_object(shares, files)
    if rank == 0:
        listed = sorted({f.path: f for share in shares for f in share or []}.values(), key=lambda f: f.path)
        saved = Saved(name, step, layout, state, curve, listed)
        storage.put_if_absent(storage.join(folder, MANIFEST), json.dumps(dataclasses.asdict(saved)).encode())
        _prune(url, attempt)
    dist.barrier()


def latest(url: str, layout: Layout, say: Callable[[str], None]) -> Saved | None:
    """The newest checkpoint whose files all match its manifest. Raises ResourceError when it was made in another layout."""
    for name in sorted(_names(url), reverse=True):
        saved = _load(url, name)
        if saved is None or not _whole(url, saved):
            say(f"checkpoint {name} is incomplete or damaged; the one before it is used")
            if saved:
                release(url, saved)
            continue
        if saved.layout != layout:
            raise ResourceError(
                f"this training stopped at step {saved.step} with {saved.layout.workers} workers and ZeRO "
                f"{saved.layout.zero}, and now has {layout.workers} and ZeRO {layout.zero}; a sharded optimizer does not "
                f"fit into another layout. Set compute.train.workers: {saved.layout.workers} and compute.train.zero: "
                f"{saved.layout.zero} to resume, or remove {url} to train from the beginning"
            )
        return saved
    return None


def fetch(url: str, saved: Saved) -> str:
    """A local folder with the checkpoint's files, for reading by this worker."""
    folder = storage.join(url, saved.name)
    if not storage.is_s3(url):
        return folder
    return str(storage.download(folder, _cache(saved.name)))


def release(url: str, saved: Saved) -> None:
    """Remove this machine's copy, once all of its workers have read it."""
    if storage.is_s3(url):
        shutil.rmtree(_cache(saved.name), ignore_errors=True)


def forget(url: str, attempts: Collection[str]) -> None:
    """Remove the checkpoints of some attempts: their run is finished. Those of a run beside it stay."""
    for name in _names(url):
        if _attempt(name) in attempts:
            discard(storage.join(url, name))


def discard(url: str) -> None:
    """Remove a folder of a run in progress."""
    if storage.is_s3(url):
        for entry in storage.entries(url):
            storage.remove(entry.url)
    else:
        shutil.rmtree(url, ignore_errors=True)


def _share(folder: Path, rank: int, workers: int) -> list[File]:
    """Every workers-th file of a shared folder, hashed: the workers split the reading."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())[rank::workers]
    return [File(p.relative_to(folder).as_posix(), 0, p.stat().st_size, storage.sha256_file(p)) for p in files]


def _names(url: str) -> set[str]:
    below = (e.url.removeprefix(url.rstrip("/") + "/") for e in storage.entries(url))
    return {path.split("/")[0] for path in below if path.startswith("step-")}


def _attempt(name: str) -> str:
    return name.split(".")[1]


def _load(url: str, name: str) -> Saved | None:
    manifest = storage.join(url, name, MANIFEST)
    if not storage.exists(manifest):
        return None
    try:
        values = json.loads(storage.read(manifest))
        nested = {"layout": Layout(**values["layout"]), "files": [File(**f) for f in values["files"]]}
        return Saved(**values | nested)
    except (ValueError, TypeError, KeyError):
        return None


def _whole(url: str, saved: Saved) -> bool:
    folder = Path(fetch(url, saved))
    return all((folder / f.path).is_file() and storage.sha256_file(folder / f.path) == f.sha256 for f in saved.files)


def _cache(name: str) -> Path:
    folder = Path(tempfile.gettempdir()) / "raystill-checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def _prune(url: str, attempt: str) -> None:
    ours = sorted(name for name in _names(url) if _attempt(name) == attempt)
    for name in ours[:-KEEP]:
        discard(storage.join(url, name))


__all__ = ["TAG", "Layout", "Saved", "discard", "fetch", "forget", "latest", "release", "save"]

"""Checkpoints of a run in progress: a folder of every worker's files, and a manifest with their sha256 written last.

    <url>/step-00000200.<attempt>.<save>/…DeepSpeed's files…
    <url>/step-00000200.<attempt>.<save>/manifest.json      its presence means complete

An attempt is one driver's run. Each save has a name of its own, since a run that lost a worker comes by a step again.

DeepSpeed's own `latest` file is not used: it is written in place and says nothing about completeness. A checkpoint that is
torn or damaged is passed over and the one before it taken. Reading one runs pickle, so only files whose checksum the
manifest lists are ever read.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raystill import storage
from raystill.artifacts import MANIFEST, File


@dataclass(frozen=True)
class Layout:
    """Who holds which part of a checkpoint; `layouts.load` turns one into another."""

    workers: int
    zero: int

    def __str__(self) -> str:
        return f"{self.workers} worker{'s' if self.workers > 1 else ''} and ZeRO {self.zero}"


@dataclass(frozen=True)
class Saved:
    """A complete checkpoint. `state` is where the run stood; `curve` its training curve so far."""

    name: str
    step: int
    layout: Layout
    state: dict[str, Any]
    curve: list[dict[str, Any]]
    files: list[File]


def latest(url: str, say: Callable[[str], None], step: int | None = None) -> Saved | None:
    """The newest checkpoint (of a step) whose files all match its manifest; each that is passed over is said."""
    for name in sorted(names(url), reverse=True):
        if step is not None and step_of(name) != step:
            continue
        saved = _load(url, name)
        if saved and _whole(url, saved):
            return saved
        say(f"checkpoint {name} is incomplete or damaged; the one before it is used")
        if saved:
            release(url, saved)
    return None


def fetch(url: str, saved: Saved) -> str:
    """A local folder with the checkpoint's files, for reading by this worker."""
    folder = storage.join(url, saved.name)
    if not storage.is_s3(url):
        return folder
    return str(storage.download(folder, cache(saved.name)))


def release(url: str, saved: Saved) -> None:
    """Remove this machine's copy, once all of its workers have read it."""
    if storage.is_s3(url):
        shutil.rmtree(cache(saved.name), ignore_errors=True)


def forget(url: str, attempts: Collection[str]) -> None:
    """Remove the checkpoints of some attempts: their run is finished. Those of a run beside it stay."""
    for name in names(url):
        if attempt_of(name) in attempts:
            discard(storage.join(url, name))


def discard(url: str) -> None:
    """Remove a folder of a run in progress."""
    if storage.is_s3(url):
        for entry in storage.entries(url):
            storage.remove(entry.url)
    else:
        shutil.rmtree(url, ignore_errors=True)


def names(url: str) -> set[str]:
    """Folders of checkpoints, complete or not."""
    below = (e.url.removeprefix(url.rstrip("/") + "/") for e in storage.entries(url))
    return {path.split("/")[0] for path in below if path.startswith("step-")}


def attempt_of(name: str) -> str:
    """Whose checkpoint it is."""
    return name.split(".")[1]


def step_of(name: str) -> int:
    """The step after which it was made."""
    return int(name.split(".")[0].removeprefix("step-"))


def cache(name: str) -> Path:
    """A folder of this machine for a checkpoint's copy."""
    folder = Path(tempfile.gettempdir()) / "raystill-checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


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

"""What a model is, by content: a local folder, an s3:// folder or a hub id becomes a Checkpoint with an identity.

A folder's identity is the sha256 over its files, cached by size and modification time in `<root>/models.json`; a hub id's
is the commit it resolves to, asked once per root and kept there, so a moving branch never changes a run in the middle:
every process loads that commit.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

from raystill import storage
from raystill.artifacts import Checkpoint
from raystill.errors import ModelError, StorageError

UNRESOLVED = "unresolved"
"""The fingerprint of what cannot be read offline, and of all that depends on it."""


def resolve(model: str, root: str, *, offline: bool) -> Checkpoint:
    """The model with its identity. Offline, S3 folders and unknown hub ids stay UNRESOLVED."""
    known = _known(root, offline)
    if Path(model).is_dir():
        return Checkpoint(model, _folder_identity(Path(model), root, known))
    if storage.is_s3(model):
        if offline:
            return Checkpoint(model, UNRESOLVED)
        listed = [(e.url.removeprefix(model), e.size, e.etag) for e in storage.entries(model)]
        if not listed:
            raise ModelError(f"{model} holds no files; check the address with `aws s3 ls {model}/`")
        return Checkpoint(model, _digest(listed))
    if looks_local(model):
        raise ModelError(f"model folder {model} does not exist; {_near(model)}")
    if model not in known and offline:
        return Checkpoint(model, UNRESOLVED)
    if model not in known:
        known[model] = _hub_commit(model)
        _keep(root, known)
    return Checkpoint(model, known[model])


def looks_local(model: str) -> bool:
    """Whether a name that is no folder was meant as one: a hub id has at most one slash and no leading dot or slash."""
    return model.startswith((".", "/", "~")) or model.count("/") != 1 or Path(model.split("/")[0]).is_dir()


def config(model: str) -> dict[str, Any] | None:
    """A local folder's config.json, None for what is not local. Raises ModelError when the folder is no model."""
    folder = Path(model)
    if not folder.is_dir():
        return None
    try:
        values: dict[str, Any] = json.loads((folder / "config.json").read_text())
        return values
    except (OSError, ValueError) as e:
        raise ModelError(
            f"{model} has no readable config.json; give a folder as transformers' save_pretrained makes it"
        ) from e


def vocabulary(model: str) -> int:
    """Logits of a local folder's model. Raises ModelError when its config.json does not say."""
    values = config(model) or {}
    size = values.get("vocab_size") or values.get("text_config", {}).get("vocab_size")
    if not size:
        raise ModelError(
            f"{model}/config.json has no vocab_size; give a folder as transformers' save_pretrained makes it"
        )
    return int(size)


def parameters(model: str) -> int | None:
    """Numbers in a local folder's safetensors, from their headers; None where there are none to read."""
    index, folder = Path(model, "model.safetensors.index.json"), Path(model)
    try:
        listed = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else {"model.safetensors"}
        headers = [_header(folder / name) for name in listed]
    except (OSError, ValueError, KeyError):
        return None
    shapes = (tensor["shape"] for header in headers for name, tensor in header.items() if name != "__metadata__")
    return sum(int(math.prod(shape)) for shape in shapes)


def _header(path: Path) -> dict[str, Any]:
    """A safetensors file's own description of its tensors: its length in 8 bytes, then JSON."""
    with path.open("rb") as file:
        described: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return described


def token_ids(model: str) -> dict[str, int] | None:
    """Tokens and their ids of a local folder's tokenizer.json; None where there is none to read.

    Equal ones may still cut text differently, which `chat.tokenizer_fingerprint` tells; different ones are never the same.
    """
    try:
        values = json.loads((Path(model) / "tokenizer.json").read_text())
        listed = values["model"]["vocab"]
        known = dict(listed) if isinstance(listed, dict) else {token: i for i, (token, _) in enumerate(listed)}
        return known | {added["content"]: added["id"] for added in values.get("added_tokens", [])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _folder_identity(folder: Path, root: str, known: dict[str, str]) -> str:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    stamp = _digest([(p.relative_to(folder).as_posix(), p.stat().st_size, p.stat().st_mtime_ns) for p in files])
    key = f"{folder.resolve()}@{stamp}"
    if key not in known:
        known[key] = _digest([(p.relative_to(folder).as_posix(), storage.sha256_file(p)) for p in files])
        _keep(root, known)
    return known[key]


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:12]


def _known(root: str, offline: bool) -> dict[str, str]:
    if offline and storage.is_s3(root):
        return {}
    try:
        values: dict[str, str] = json.loads(storage.read(storage.join(root, "models.json")))
        return values
    except (StorageError, ValueError):
        return {}


def _keep(root: str, known: dict[str, str]) -> None:
    try:
        storage.write(storage.join(root, "models.json"), json.dumps(known, indent=2, sort_keys=True).encode())
    except StorageError:
        return  # a cache: plan may run where root is not writable


def _hub_commit(model: str) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # also a lost connection's

    try:
        commit = HfApi().model_info(model).sha
    except (HTTPError, OSError) as e:
        raise ModelError(
            f"hub model '{model}' cannot be looked up ({type(e).__name__}); check the id, HF_TOKEN and the network, "
            "or give a local folder"
        ) from None
    return str(commit)


def _near(model: str) -> str:
    parent = Path(model).parent
    there = sorted(p.name for p in parent.iterdir() if p.is_dir())[:8] if parent.is_dir() else []
    return f"folders in {parent}: {', '.join(there)}" if there else f"{parent} has no folders; check the path"

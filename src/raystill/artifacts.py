"""What stages leave behind: folders with a manifest, addressed by what they were made from.

    <root>/<stage>/<fingerprint>/…files…
    <root>/<stage>/<fingerprint>/manifest.json     written last; its presence means complete

An artifact is never changed. Its fingerprint hashes the stage, the stage's version, the part of the recipe that decides
the outcome and the fingerprints of its inputs, so a changed recipe makes a new folder and an unchanged one is reused.
"""

import dataclasses
import hashlib
import io
import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from raystill import storage
from raystill.errors import Corrupted, StorageError
from raystill.records import Record, Row, Split, from_table, schema, to_table

MANIFEST = "manifest.json"
COMMIT = re.compile(r"[0-9a-f]{40}")
"""The identity of a hub model."""
WEIGHTS = ".safetensors"
HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "*.tiktoken"]
"""What is fetched of a hub model: configuration, weights that hold no code, and every form of tokenizer."""
ADAPTER = "adapter"
"""The folder, in that of a model trained with LoRA, of the adapter that is merged into its weights."""
A = TypeVar("A", bound="Artifact")


@dataclass(frozen=True)
class File:
    """One file of an artifact; `path` is relative to it, `rows` is 0 for what is no table."""

    path: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What an artifact is and where it came from. Secrets never."""

    kind: str
    schema: int
    stage: str
    version: int
    fingerprint: str
    config: dict[str, Any]
    inputs: dict[str, str]
    files: list[File]
    counts: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def dump(self) -> bytes:
        """The manifest as stored."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True, ensure_ascii=False).encode()

    @classmethod
    def load(cls, url: str) -> "Manifest":
        """The manifest of an artifact folder. Raises Corrupted when it cannot be read as one."""
        data = storage.read(storage.join(url, MANIFEST))
        try:
            values = json.loads(data)
            return cls(**values | {"files": [File(**f) for f in values["files"]]})
        except (ValueError, TypeError, KeyError) as e:
            raise Corrupted(f"{url}/{MANIFEST} is damaged; move the folder away and run again to make it anew") from e


@dataclass(frozen=True)
class Outcome:
    """What a stage function returns: the files it wrote under its folder, what it counted, and facts for downstream."""

    kind: str
    files: Sequence[File]
    schema: int = 1
    counts: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Artifact:
    """A finished artifact, or a model from outside raystill (then without a manifest)."""

    url: str
    fingerprint: str
    manifest: Manifest | None = None

    @property
    def counts(self) -> Mapping[str, Any]:
        """What its stage counted."""
        return self.manifest.counts if self.manifest else {}

    @property
    def facts(self) -> Mapping[str, Any]:
        """What its stage noted for downstream."""
        return self.manifest.facts if self.manifest else {}

    def read(self, path: str) -> bytes:
        """One of its files, checked against the manifest. Raises Corrupted when it differs."""
        data = storage.read(storage.join(self.url, path))
        listed = {f.path: f for f in self.manifest.files}[path] if self.manifest else None
        if listed and hashlib.sha256(data).hexdigest() != listed.sha256:
            raise Corrupted(
                f"{self.url}/{path} does not match its checksum: it was changed or damaged after it was written; "
                f"move {self.url} away and run again to make it anew"
            )
        return data


@dataclass(frozen=True)
class Table(Artifact):
    """Rows in Parquet parts. Part names begin with the split, so one split can be read alone."""

    def parts(self, *splits: Split) -> list[File]:
        """Its Parquet files, all or of some splits."""
        files = self.manifest.files if self.manifest else []
        wanted = tuple(f"{s}-" for s in splits) if splits else ("",)
        return [f for f in files if f.path.endswith(".parquet") and f.path.startswith(wanted)]

    def rows(self, row: type[Row], *splits: Split) -> Iterator[Row]:
        """Its rows, typed, part by part."""
        for part in self.parts(*splits):
            yield from decode(row, self.read(part.path), f"{self.url}/{part.path}")

    def column(self, name: str, *splits: Split) -> Iterator[Any]:
        """One column's values, part by part; much cheaper than whole rows."""
        for part in self.parts(*splits):
            yield from pq.read_table(io.BytesIO(self.read(part.path)), columns=[name])[name].to_pylist()


@dataclass(frozen=True)
class Checkpoint(Artifact):
    """A model folder as transformers writes it, or a hub id."""

    def place(self) -> str:
        """Where its files are: what raystill made lies in its attempt's own subfolder, which the facts name."""
        return storage.join(self.url, self.facts["folder"]) if "folder" in self.facts else self.url

    def folder(self, cache: Path | None = None) -> str:
        """A local folder; a remote one is copied once per machine, a hub id's commit into the hub's own cache.

        Raises StorageError when a remote one cannot be had.
        """
        return self._copy(cache, weights=True)

    def papers(self, cache: Path | None = None) -> str:
        """As `folder`, for who reads configuration and tokenizer alone: of a remote model no weights are copied."""
        return self._copy(cache, weights=False)

    def weights_bytes(self) -> int:
        """Bytes of its safetensors, also where there is no copy of them. Raises StorageError as `folder` does."""
        url = self.place()
        if storage.is_s3(url):
            return sum(entry.size for entry in storage.entries(url) if entry.url.endswith(WEIGHTS))
        folder = Path(self.papers())
        here = sum(path.stat().st_size for path in folder.glob(f"*{WEIGHTS}")) if folder.is_dir() else 0
        return here if here or Path(url).is_dir() or not COMMIT.fullmatch(self.fingerprint) else _hub_bytes(self)

    def _copy(self, cache: Path | None, *, weights: bool) -> str:
        url = self.place()
        if not storage.is_s3(url):
            here = Path(url).is_dir() or not COMMIT.fullmatch(self.fingerprint)
            return url if here else _snapshot(url, self.fingerprint, weights)
        cache = cache or copies()
        cache.mkdir(parents=True, exist_ok=True)
        whole = cache / self.fingerprint
        if weights or whole.is_dir():
            return str(storage.download(url, whole))
        return str(storage.download(url, cache / f"{self.fingerprint}-papers", but=WEIGHTS))


def copies() -> Path:
    """Where a machine keeps copies of models from a store, by fingerprint."""
    return Path(tempfile.gettempdir()) / "raystill-models"


def _hub_bytes(model: Checkpoint) -> int:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # also a lost connection's

    try:
        listed = HfApi().list_repo_tree(model.place(), revision=model.fingerprint)
        return sum(getattr(file, "size", 0) for file in listed if file.path.endswith(WEIGHTS))
    except (HTTPError, OSError):
        raise _not_had(model.place(), model.fingerprint, "no listing of its files") from None


def _snapshot(model: str, commit: str, weights: bool) -> str:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        wanted = [name for name in HUB_FILES if weights or not name.endswith(WEIGHTS)]
        return str(snapshot_download(model, revision=commit, allow_patterns=wanted))
    except (HfHubHTTPError, OSError) as e:
        raise _not_had(model, commit, type(e).__name__) from None


def _not_had(model: str, commit: str, why: str) -> StorageError:
    return StorageError(
        f"hub model {model} (commit {commit[:12]}) cannot be had ({why}); check the network, and for a gated "
        "model that HF_TOKEN, or the file that HF_TOKEN_PATH names, holds a token with access"
    )


def fingerprint(stage: str, version: int, config: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """12 hex digits over everything that decides the outcome. Raises TypeError on what has no stable JSON form."""
    identity = {"stage": stage, "version": version, "config": config, "inputs": inputs}
    text = json.dumps(identity, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def encode(row: type[Row], rows: Sequence[Row], metadata: Mapping[str, str] | None = None) -> bytes:
    """Rows as one Parquet file with page checksums."""
    table = to_table(row, rows)
    if metadata:
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), **metadata})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def table(row: type[Row], data: bytes, url: str) -> pa.Table:
    """One Parquet file of such rows. Raises Corrupted when pages fail their checksum or the schema is another one."""
    try:
        found = pq.read_table(io.BytesIO(data), page_checksum_verification=True)
    except (pa.ArrowInvalid, OSError) as e:
        raise Corrupted(f"{url} is damaged ({e}); move its folder away and run again to make it anew") from e
    if not found.schema.equals(schema(row), check_metadata=False):  # type: ignore[arg-type]
        raise Corrupted(f"{url} holds other columns than {row.__name__} rows: {', '.join(found.schema.names)}")
    return found


def decode(row: type[Row], data: bytes, url: str) -> list[Row]:
    """Rows of one Parquet file. Raises Corrupted as `table` does."""
    return from_table(row, table(row, data, url))


def describe(path: str, data: bytes, rows: int = 0) -> File:
    """The manifest's line about one file."""
    return File(path, rows, len(data), hashlib.sha256(data).hexdigest())


def describe_folder(folder: Path) -> list[File]:
    """The manifest's lines about all files of a local folder."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return [File(p.relative_to(folder).as_posix(), 0, p.stat().st_size, storage.sha256_file(p)) for p in files]


def write_part(url: str, split: str, row: type[Row], rows: Sequence[Row]) -> File:
    """Publish one Parquet part under an artifact folder, named by split and content, so equal parts are one object."""
    data = encode(row, rows)
    name = f"{split}-{hashlib.sha256(data).hexdigest()[:12]}.parquet"
    storage.put_if_absent(storage.join(url, name), data)
    return describe(name, data, len(rows))


def load(kind: type[A], url: str) -> A | None:
    """The finished artifact at this URL, or None."""
    if not storage.exists(storage.join(url, MANIFEST)):
        return None
    manifest = Manifest.load(url)
    return kind(url, manifest.fingerprint, manifest)


def commit(kind: type[A], url: str, manifest: Manifest) -> A:
    """Write the manifest last. When another run was first, its artifact is taken: both hold the same."""
    storage.put_if_absent(storage.join(url, MANIFEST), manifest.dump())
    stored = load(kind, url)
    if stored is None:
        raise StorageError(f"{url}/{MANIFEST} vanished right after it was written; is something cleaning this folder?")
    return stored


__all__ = [
    "MANIFEST", "Artifact", "Checkpoint", "File", "Manifest", "Outcome", "Record", "Table", "commit", "decode",
    "describe", "describe_folder", "encode", "fingerprint", "load", "table", "write_part",
]  # fmt: skip

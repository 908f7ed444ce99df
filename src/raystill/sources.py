"""The user's data: finding its files, saying what exactly they are, and reading them one after another.

A path is a file, a folder, a glob, `s3://…` or a hub id (`owner/name`, `owner/name:config`). How rows come out of one
file is in formats.py; what a row means is not decided here.
"""

import contextlib
import difflib
import glob
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from raystill import storage
from raystill.errors import DataError, StorageError
from raystill.formats import (
    BATCH_ROWS,
    FORMATS,
    Found,
    Rejected,
    arrow_rows,
    format_of,
    is_textual,
    read_file,
    suffix,
)  # fmt: skip
from raystill.recipe import Paths

IDENTITIES = "identity.json"
HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(:[\w.-]+)?")


def read(paths: Paths, split: str, max_row_bytes: int) -> Iterator[Found | Rejected]:
    """All rows of some paths, file by file in order of name. Of a hub data set, the rows of its split of this name.

    Raises DataError for a missing or damaged file, StorageError for a store that refuses.
    """
    for path in _listed(paths):
        if is_hub_id(path):
            yield from _read_hub(path, split, max_row_bytes)
        else:
            for file in find(path):
                yield from read_file(file, max_row_bytes)


def find(path: str) -> list[str]:
    """The data files that a path names, sorted. Raises DataError with near names when there are none."""
    files = _find_s3(path) if storage.is_s3(path) else _find_local(path)
    for file in files:
        format_of(file)
    return files


def identify(paths: Paths, root: str, *, offline: bool = False) -> dict[str, str | None]:
    """Identity of every file that the paths name: sha256 of a local one, ETag and size on S3, commit of a hub data set.

    None where it cannot be known offline. Hashes of local files are remembered in `<root>/identity.json`.
    """
    identities: dict[str, str | None] = {}
    cache = _Cache(root, offline)
    for path in _listed(paths):
        if is_hub_id(path):
            identities[path] = None if offline else _hub_commit(path)
        elif storage.is_s3(path):
            entries = {} if offline else {e.url: e for e in storage.entries(_s3_folder(path))}
            files = [path] if offline else find(path)
            identities |= {f: f"{entries[f].etag}-{entries[f].size}" if f in entries else None for f in files}
        else:
            identities |= {file: cache.sha256(Path(file)) for file in find(path)}
    cache.save()
    return identities


def is_hub_id(path: str) -> bool:
    """Whether a path is a hub data set: looks like `owner/name`, has no data file's ending, and is nothing local."""
    if not HUB.fullmatch(path) or suffix(path) in FORMATS:
        return False
    return not Path(path).exists() and not Path(path).parent.is_dir()


def _listed(paths: Paths) -> list[str]:
    return [paths] if isinstance(paths, str) else list(paths)


def _find_local(path: str) -> list[str]:
    here = Path(path).expanduser()
    if here.is_file():
        return [str(here)]
    if here.is_dir():
        files = [str(f) for f in sorted(here.rglob("*")) if f.is_file() and suffix(f.name) in FORMATS]
        if not files:
            raise DataError(f"{path}: this folder holds no data file; wanted are {', '.join(FORMATS)}")
        return files
    if glob.has_magic(path):
        files = sorted(f for f in glob.glob(str(here), recursive=True) if Path(f).is_file())  # noqa: PTH207 - absolute too
        if not files:
            raise DataError(f"{path}: no file matches this pattern; try `ls {path}`")
        return files
    raise DataError(f"{path} does not exist; {_near(here)}")


def _near(path: Path) -> str:
    if not path.parent.is_dir():
        return f"there is no folder {path.parent} either; check the path"
    names = sorted(p.name for p in path.parent.iterdir() if p.is_dir() or suffix(p.name) in FORMATS)
    near = difflib.get_close_matches(path.name, names, 3, 0.5) or names[:5]
    return f"near it: {', '.join(near)}" if near else f"{path.parent} holds no data files; check the path"


def _s3_folder(path: str) -> str:
    """The folder whose objects decide what an S3 path names."""
    magic = re.search(r"[*?\[]", path)
    if magic:
        return path[: magic.start()].rpartition("/")[0]
    return path.rpartition("/")[0] if suffix(path) in FORMATS else path.rstrip("/")


def _find_s3(path: str) -> list[str]:
    urls = [e.url for e in storage.entries(_s3_folder(path))]
    if glob.has_magic(path):
        pattern = _pattern(path)
        files = [u for u in urls if pattern.fullmatch(u)]
    elif suffix(path) in FORMATS:
        files = [u for u in urls if u == path]
    else:
        files = [u for u in urls if suffix(u) in FORMATS]
    if not files:
        names = sorted({u.rpartition("/")[2] for u in urls})
        near = difflib.get_close_matches(path.rpartition("/")[2], names, 3, 0.5) or names[:5]
        raise DataError(f"{path} names no object; {'near it: ' + ', '.join(near) if near else 'check the address'}")
    return files


def _pattern(path: str) -> re.Pattern[str]:
    """A glob as a regular expression: `*` stays within a folder, `**/` crosses folders."""
    tokens = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    parts = re.split(r"(\*\*/|\*|\?|\[[^\]]+\])", path)
    return re.compile(
        "".join(tokens.get(p) or (p.replace("[!", "[^") if p[:1] == "[" else re.escape(p)) for p in parts)
    )


class _Cache:
    """Hashes of local files by path, size and time of change. Best effort: without it, files are hashed again."""

    def __init__(self, root: str, offline: bool) -> None:
        self.url = None if offline and storage.is_s3(root) else storage.join(root, IDENTITIES)
        self.known: dict[str, str] = {}
        self.new = False
        if self.url:
            with contextlib.suppress(StorageError, ValueError):
                known = json.loads(storage.read(self.url))
                self.known = known if isinstance(known, dict) else {}

    def sha256(self, path: Path) -> str:
        stat = path.stat()
        key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
        if key not in self.known:
            self.known[key] = storage.sha256_file(path)
            self.new = True
        return self.known[key]

    def save(self) -> None:
        if self.url and self.new:
            with contextlib.suppress(StorageError):
                storage.write(self.url, json.dumps(self.known, indent=1).encode())


def _read_hub(path: str, split: str, max_row_bytes: int) -> Iterator[Found | Rejected]:
    # Imported here: datasets takes a second, and local files do not need it.
    import datasets
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    name, _, config = path.partition(":")
    try:
        table = datasets.load_dataset(name, config or None, split=split)
    except (ConnectionError, OfflineModeIsEnabled, HfHubHTTPError) as e:
        raise _unreachable(path) from e
    except (datasets.exceptions.DatasetNotFoundError, FileNotFoundError) as e:
        raise DataError(
            f"{path} is neither a file here nor a data set on the hub; check the name, or log in: `hf auth login`"
        ) from e
    except ValueError as e:  # unknown config or split: its message lists those that exist
        raise DataError(f"{path}, split '{split}': {e}") from e
    first = 1
    textual = [f.name for f in table.features.arrow_schema if is_textual(f.type)]
    for batch in table.select_columns(textual).with_format("arrow").iter(BATCH_ROWS):
        yield from arrow_rows(path, batch, first, max_row_bytes)
        first += batch.num_rows


def _hub_commit(path: str) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled  # type: ignore[attr-defined]  # also a lost connection's

    try:
        commit = HfApi().dataset_info(path.partition(":")[0]).sha
    except (OSError, OfflineModeIsEnabled, HTTPError) as e:
        raise _unreachable(path) from e
    return hashlib.sha256(f"{path}@{commit}".encode()).hexdigest()


def _unreachable(path: str) -> DataError:
    return DataError(
        f"{path} does not exist here, so it is taken for a data set on the hub, and the hub cannot be reached; "
        "if you meant a file, check its path and ending; else run where the hub is reachable, or download it first: "
        f"hf download --repo-type dataset {path.partition(':')[0]}"
    )

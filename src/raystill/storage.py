"""Bytes by URL, over local disk and S3; nothing else in raystill touches artifact paths.

A URL is a local path or `s3://bucket/key`. Objects are published whole: `put_if_absent` never shows half a file, and
exactly one of several writers of one name wins. S3 goes through boto3, so AWS_ENDPOINT_URL, profiles and roles work as
they do everywhere. Local publishing links a finished temporary file to its name, which POSIX makes atomic.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import random
import shutil
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

from raystill.errors import StorageError

S3 = "s3://"
READ_TIMEOUT_S = 60.0
"""Longest silence of S3; then the request is tried again."""
CUT_WAITS_S = (0.2, 1.0, 5.0)
"""Most that is waited before the body of an answer that was cut is asked for again: boto3 repeats requests, not bodies."""


@dataclass(frozen=True)
class Entry:
    """One stored object: its URL, size in bytes and an identity that changes with its content."""

    url: str
    size: int
    etag: str


def is_s3(url: str) -> bool:
    """Whether the URL names an object on S3."""
    return url.startswith(S3)


def join(url: str, *names: str) -> str:
    """A URL below another."""
    return "/".join([url.rstrip("/"), *names])


def read(url: str) -> bytes:
    """The whole object. Raises StorageError when it is missing or refused."""
    if is_s3(url):
        with _s3_errors(url):
            return _s3_read(url)
    with _disk_errors(url):
        return Path(url).read_bytes()


@contextlib.contextmanager
def open_read(url: str) -> Iterator[IO[bytes]]:
    """A binary stream over the object."""
    if is_s3(url):
        with _s3_errors(url):
            yield _client().get_object(**_where(url))["Body"]
    else:
        with _disk_errors(url), Path(url).open("rb") as stream:
            yield stream


def write(url: str, data: bytes) -> None:
    """Store or replace; for pointers and caches only. Readers see the old or the new object, never a mixture."""
    if is_s3(url):
        with _s3_errors(url):
            _client().put_object(**_where(url), Body=data)
        return
    with _disk_errors(url), _temporary(url, data) as temporary:
        temporary.replace(url)


def put_if_absent(url: str, data: bytes) -> bool:
    """Publish unless the name exists; True when the stored object is ours.

    A lost response makes the retry meet our own object: equal content counts as ours, so the answer is the same.
    """
    if is_s3(url):
        return _s3_put_if_absent(url, data)
    with _disk_errors(url), _temporary(url, data) as temporary:
        try:
            os.link(temporary, url)
        except FileExistsError:
            return Path(url).read_bytes() == data
    return True


def exists(url: str) -> bool:
    """Whether an object of this name is stored."""
    if not is_s3(url):
        return Path(url).is_file()
    with _s3_errors(url):
        return any(e.url == url for e in _s3_list(url))


def entries(url: str) -> list[Entry]:
    """All objects below a folder URL, sorted by name."""
    if is_s3(url):
        with _s3_errors(url):
            return sorted(_s3_list(url.rstrip("/") + "/"), key=lambda e: e.url)
    return sorted(
        (
            Entry(str(p), s.st_size, f"{s.st_size}-{s.st_mtime_ns}")
            for p in Path(url).rglob("*")
            if p.is_file() and not p.name.startswith(".tmp-")
            for s in [p.stat()]
        ),
        key=lambda e: e.url,
    )


def upload(folder: Path, url: str) -> None:
    """Copy a finished local folder to a URL. Nothing may trust it before its manifest is there."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        target = join(url, path.relative_to(folder).as_posix())
        if is_s3(target):
            # As a stream: upload_file turns what the store says into an error of its own, without a code.
            with _s3_errors(target), path.open("rb") as stream:
                _client().upload_fileobj(stream, *_where(target).values())
        else:
            with _disk_errors(target):
                Path(target).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)


def download(url: str, folder: Path, but: str | None = None) -> Path:
    """A local copy of a remote folder, complete or not there at all; of several processes one fetches, the others wait.

    Files whose name ends in `but` are left out.
    """
    temporary = folder.with_name(f".tmp-{folder.name}")
    with folder.with_name(f".lock-{folder.name}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # let go by the kernel when its holder dies
        if folder.is_dir():
            return folder
        shutil.rmtree(temporary, ignore_errors=True)  # of one that died
        for entry in entries(url):
            if but and entry.url.endswith(but):
                continue
            target = temporary / entry.url.removeprefix(url.rstrip("/") + "/")
            target.parent.mkdir(parents=True, exist_ok=True)
            with _s3_errors(entry.url):
                _client().download_file(*_where(entry.url).values(), str(target))
        if not temporary.is_dir():
            raise StorageError(f"{url} holds nothing; check the address with `aws s3 ls {url}/`")
        return temporary.rename(folder)


def probe(url: str) -> None:
    """Put one name twice. Raises StorageError unless the second put is refused: commits rest on that.

    The name stays, since a role that may write need not be one that may delete.
    """
    name = join(url, ".probe")
    put_if_absent(name, b"first")
    if put_if_absent(name, uuid.uuid4().bytes):
        raise StorageError(
            f"the store at {url} lets a second writer replace an object (it ignores If-None-Match), so two runs could "
            "mix their results; use a store with conditional writes, such as AWS S3, MinIO or a local disk"
        )


def remove(url: str) -> None:
    """Delete one object of our own making. Artifacts are never deleted."""
    if is_s3(url):
        with _s3_errors(url):
            _client().delete_object(**_where(url))
    else:
        Path(url).unlink(missing_ok=True)


def sha256_file(path: Path) -> str:
    """Hex digest of a local file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def _temporary(url: str, data: bytes) -> Iterator[Path]:
    """A finished, synced temporary file beside its final name; gone afterwards."""
    target = Path(url)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".tmp-{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _disk_errors(url: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as e:
        raise StorageError(f"{url} does not exist; check the path") from e
    except PermissionError as e:
        raise StorageError(f"{url} is not accessible ({e.strerror}); choose another 'root' or change its rights") from e
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StorageError(
                f"no space left while writing {url}; nothing half-written is kept: free space and run the same command"
            ) from e
        raise StorageError(f"{url}: {e.strerror}") from e


@cache
def _client() -> Any:
    # Imported here: boto3 takes 0.3 s, and local runs and --help do not need it.
    import boto3
    from botocore.config import Config

    retries: Any = {"mode": "standard", "max_attempts": 8}  # exponential backoff with jitter on 5xx, 429 and resets
    return boto3.client("s3", config=Config(retries=retries, connect_timeout=10, read_timeout=READ_TIMEOUT_S))


def _where(url: str) -> dict[str, str]:
    bucket, _, key = url.removeprefix(S3).partition("/")
    return {"Bucket": bucket, "Key": key}


def _s3_read(url: str) -> bytes:
    from botocore.exceptions import IncompleteReadError, ReadTimeoutError, ResponseStreamingError

    def body() -> bytes:
        data: bytes = _client().get_object(**_where(url))["Body"].read()
        return data

    for wait_s in CUT_WAITS_S:
        with contextlib.suppress(IncompleteReadError, ReadTimeoutError, ResponseStreamingError):
            return body()
        time.sleep(random.uniform(0, wait_s))
    return body()


def _s3_list(prefix: str) -> Iterator[Entry]:
    where = _where(prefix)
    pages = _client().get_paginator("list_objects_v2").paginate(Bucket=where["Bucket"], Prefix=where["Key"])
    for page in pages:
        for item in page.get("Contents", []):
            yield Entry(f"{S3}{where['Bucket']}/{item['Key']}", item["Size"], item["ETag"].strip('"'))


def _s3_put_if_absent(url: str, data: bytes) -> bool:
    from botocore.exceptions import ClientError

    with _s3_errors(url):
        while True:
            try:
                _client().put_object(**_where(url), Body=data, IfNoneMatch="*")
                return True
            except ClientError as e:
                status = e.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
                if status == 409:  # two conditional writes met: neither is stored yet
                    continue
                if status != 412:
                    raise
                return read(url) == data


@contextlib.contextmanager
def _s3_errors(url: str) -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as e:
        code = e.response.get("Error", {}).get("Code", "")
        bucket = _where(url)["Bucket"]
        match code:
            case "NoSuchBucket":
                raise StorageError(f"bucket '{bucket}' does not exist; create it: aws s3 mb s3://{bucket}") from None
            case "NoSuchKey" | "404":
                raise StorageError(f"{url} does not exist; check the address") from None
            case "AccessDenied" | "403" | "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "ExpiredToken":
                raise StorageError(
                    f"{url} is refused ({code}); check AWS_PROFILE or the role, and that it may get, put and list"
                ) from None
        raise StorageError(f"{url}: the store answers {code or e}; run the same command again to resume") from None
    except BotoCoreError as e:
        raise StorageError(f"{url}: {e}; check the network, credentials, AWS_REGION and AWS_ENDPOINT_URL") from None

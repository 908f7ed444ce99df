"""The independent ledger: what a root's generate step holds, read by pyarrow and boto3 alone.

Every id is exactly once answered or rejected, with its own prompt.
"""

import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

REASONS = {"<<kill>>": "ended its engine", "<<error>>": "scripted error"}
"""What a mark in a prompt of the scripted teacher must lead to."""


@dataclass(frozen=True)
class Ledger:
    """A clean one, counted."""

    answered: int
    rejected: dict[str, int]
    """By reason."""
    units: int
    redone: int
    """Starts of units beyond the first of each."""


def check(root: str, asked: Mapping[str, str]) -> Ledger:
    """The ledger of the one finished generate step under a root, where `asked` is each id's prompt.

    Raises AssertionError when anything is lost, doubled, swapped or left half-written.
    """
    objects = dict(stored(f"{root}/generate"))
    manifests = [name for name in objects if name.endswith("/manifest.json")]
    assert len(manifests) == 1, manifests
    folder = manifests[0].rpartition("/")[0]
    files = [f["path"] for f in json.loads(objects[manifests[0]])["files"]]
    rows = [row for f in files for row in pq.read_table(io.BytesIO(objects[f"{folder}/{f}"])).to_pylist()]
    assert Counter(row["id"] for row in rows) == Counter(asked.keys())
    for row in rows:
        assert row["messages"][-1]["content"] == asked[row["id"]]
        reason = next((said for mark, said in REASONS.items() if mark in asked[row["id"]]), None)
        assert row["error"] == reason, (row["id"], row["error"], reason)
        assert row["error"] or row["text"] == f"answer {row['id']}"
    starts = Counter(name.rpartition("/")[2].rsplit(".", 1)[0] for name in objects if "/attempts/" in name)
    return Ledger(
        answered=sum(not row["error"] for row in rows),
        rejected=dict(Counter(row["error"] for row in rows if row["error"])),
        units=len(files),
        redone=sum(starts[f] - 1 for f in files),
    )


def stored(url: str) -> Iterator[tuple[str, bytes]]:
    """All objects below a folder or prefix."""
    if not url.startswith("s3://"):
        for path in Path(url).rglob("*"):
            if path.is_file():
                yield path.relative_to(url).as_posix(), path.read_bytes()
        return
    import boto3

    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    client = boto3.client("s3")
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/"):
        for entry in page.get("Contents", []):
            body = client.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
            yield entry["Key"].removeprefix(f"{prefix}/"), body

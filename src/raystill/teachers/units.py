"""A unit: one part of a table, about 256 rows, and the one object it becomes. What is published stays published."""

import hashlib
import json
import os
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa

from raystill import artifacts, storage
from raystill.artifacts import Table
from raystill.errors import Corrupted, RaystillError
from raystill.records import Row, Split

SPLITS: tuple[Split, ...] = ("train", "validation")
"""Test rows are never shown to a teacher."""
AT_ONCE = 16
"""Finished units read or copied at once: on S3 each waits tens of milliseconds, and a resumed run may have 100,000."""


@dataclass(frozen=True)
class Unit:
    """One part of the input and the object it becomes, in `folder`."""

    name: str
    source: str
    sha256: str
    folder: str
    before: str = ""
    """An earlier outcome of it, from which only rows that were rejected for a passing reason are made anew."""

    @property
    def url(self) -> str:
        """Where it is published."""
        return storage.join(self.folder, self.name)

    def read(self) -> bytes:
        """Its input. Raises Corrupted when that is not what the manifest says."""
        data = storage.read(self.source)
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise Corrupted(f"{self.source} does not match its checksum; move its folder away and run again")
        return data

    def outcome(self, row: type[Row]) -> tuple[bytes, pa.Table]:
        """What is published, as stored and as a table. Raises Corrupted when it is damaged."""
        data = storage.read(self.url)
        try:
            return data, artifacts.table(row, data, self.url)
        except Corrupted as e:
            raise Corrupted(
                f"{self.url} is damaged; move this file away and run again: only its rows are made anew"
            ) from e


@dataclass(frozen=True)
class Done:
    """A published unit."""

    file: artifacts.File
    counts: dict[str, Any]


class StartUp:
    """Seconds that a replica took to be ready, by phase; told with its first unit."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def mark(self, phase: str) -> None:
        """A phase has ended."""
        now = time.perf_counter()
        self.seconds[phase], self._since = round(now - self._since, 1), now

    def told_once(self) -> dict[str, dict[str, float]]:
        """The phases the first time, then nothing."""
        told, self.seconds = self.seconds, {}
        return {"start_up": told} if told else {}


async def answer_batch(
    run: Callable[[Unit], Awaitable[Done]], batch: Mapping[str, Any], start_up: StartUp
) -> dict[str, list[str]]:
    """An actor's side of Ray Data: a batch of one unit as JSON in, its Done or our own error as JSON out.

    Ray Data would wrap a raised error and lose what it was.
    """
    try:
        done = [await run(Unit(**json.loads(unit))) for unit in batch["unit"]]
    except RaystillError as e:
        return {"done": [json.dumps({"error": type(e).__name__, "says": str(e)})]}
    return {"done": [json.dumps(asdict(d) | start_up.told_once()) for d in done]}


def of(table: Table, decides: Mapping[str, Any], folder: str) -> list[Unit]:
    """One unit per part, named by everything that decides its outcome: equal names hold equal work."""
    units = []
    for part in table.parts(*SPLITS):
        key = hashlib.sha256(json.dumps([decides, part.sha256], sort_keys=True).encode()).hexdigest()[:16]
        name = f"{part.path.partition('-')[0]}-{key}.parquet"
        units.append(Unit(name, storage.join(table.url, part.path), part.sha256, folder))
    return units


def retried(units: Sequence[Unit], before: Table, transient: Callable[[Unit], int]) -> list[Unit]:
    """The units of a new try after `before`: those with rows rejected for a passing reason are new, the others stay."""
    earlier = {part.path.partition(".")[0]: part.path for part in before.parts(*SPLITS)}
    out = []
    for u in units:
        there = replace(u, name=earlier[u.name.partition(".")[0]], folder=before.url)
        if not transient(there):
            out.append(replace(there, folder=u.folder))
            continue
        out.append(replace(again(there), folder=u.folder))
    return out


def again(u: Unit) -> Unit:
    """Its next try, of the rows that were rejected for a passing reason."""
    tries = int(u.name.split(".")[1].removeprefix("try")) if u.name.count(".") > 1 else 1
    return replace(u, name=f"{u.name.partition('.')[0]}.try{tries + 1}.parquet", before=u.url)


def take_over(units: Sequence[Unit], folder: str) -> tuple[list[Unit], set[str]]:
    """Units still to do, after equal ones of other runs under this root were copied here; and the names of those.

    The order is random: several drivers may do the units of one folder, and then seldom begin the same one.
    """
    there = {entry.url for entry in storage.entries(folder)}
    wanted = {u.name: u for u in units if u.url not in there}
    found: dict[str, str] = {}
    for entry in storage.entries(os.path.dirname(folder)) if wanted else []:  # noqa: PTH120  an s3 URL is no Path
        name = entry.url.rpartition("/")[2]
        if name in wanted:
            found.setdefault(name, entry.url)

    def copy(name: str) -> None:
        storage.put_if_absent(storage.join(folder, name), storage.read(found[name]))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(copy, found))
    todo = [u for u in wanted.values() if u.name not in found]
    return random.sample(todo, len(todo)), set(found)

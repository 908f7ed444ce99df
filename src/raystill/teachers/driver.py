"""Units in the driver's own event loop: for teachers without an engine, among them those that are paid by the answer."""

import asyncio
import contextlib
import gc
import itertools
import json
import threading
from collections.abc import Iterator, Sequence
from typing import cast

from raystill import storage
from raystill.errors import Interrupted
from raystill.teachers import Dear, kept
from raystill.teachers.replica import Replica
from raystill.teachers.units import Done, Unit

STOP_LOOK_S = 1.0
"""Time between two looks for Ctrl-C."""
COLLECT_AFTER = 200_000
"""New objects between two collections of garbage: some 2,000 requests' worth, tens of megabytes."""


def in_driver(replica: Replica, units: Sequence[Unit], at_once: int, stopping: threading.Event) -> Iterator[Done]:
    """Units as they are published, so many at once. After a failure or Ctrl-C those that run end, and no other begins.

    Raises the first failure.
    """
    waiting, failed = iter(units), list[BaseException]()
    paid = cast(Dear, replica.teacher) if getattr(replica.teacher, "dear", False) else None
    with _rare_collections(), asyncio.Runner() as runner:
        loop = runner.get_loop()
        running = {loop.create_task(replica.run(u)) for u in itertools.islice(waiting, at_once)}
        while running:
            done, running = runner.run(asyncio.wait(running, timeout=STOP_LOOK_S, return_when=asyncio.FIRST_COMPLETED))
            for task in done:
                if error := task.exception():
                    failed.append(error)
                else:
                    yield task.result()
            if stopping.is_set():
                if paid is None:
                    return
                paid.stopped = paid.stopped or Interrupted("stopped; every answer so far is kept")
            elif not failed:
                running |= {loop.create_task(replica.run(u)) for u in itertools.islice(waiting, len(done))}
        if paid is not None:
            runner.run(paid.aclose())
    if failed and not stopping.is_set():
        raise failed[0]


@contextlib.contextmanager
def _rare_collections() -> Iterator[None]:
    """Python's garbage collector at its defaults took half of the driver's time with 500 requests in flight: so many
    objects live for seconds, and it goes through all of them each time that their number has grown by a quarter."""
    before = gc.get_threshold()
    gc.set_threshold(COLLECT_AFTER, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextlib.contextmanager
def spending(
    replica: Replica, folder: str, units: Sequence[Unit], budget: float | None, published: float
) -> Iterator[None]:
    """Let a paid teacher know what it may cost and has cost, and keep what it has cost by the end."""
    if replica.broken:
        raise replica.broken
    if not getattr(replica.teacher, "dear", False):
        yield
        return
    paid = cast(Dear, replica.teacher)
    paid.budget, paid.spent = budget, _spent_before(folder, units, published)
    try:
        yield
    finally:
        _record(folder, paid.spent)


def _spent_before(folder: str, unfinished: Sequence[Unit], published: float) -> float:
    """What earlier runs of this step have paid: for published units, for answers kept beside them, and in vain."""
    recorded = 0.0
    for entry in storage.entries(storage.join(folder, "attempts")):
        if entry.url.rpartition("/")[2].startswith("spent."):
            recorded = max(recorded, json.loads(storage.read(entry.url))["usd"])
    return max(recorded, published + kept.cost(folder, {u.name for u in unfinished}))


def _record(folder: str, usd: float) -> None:
    number, said = 1, json.dumps({"usd": usd}).encode()
    while not storage.put_if_absent(storage.join(folder, "attempts", f"spent.{number}"), said):
        number += 1

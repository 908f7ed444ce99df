"""Answers kept by themselves before their unit is whole, so that a unit begun anew does not ask for them again.

They lie in `answered/<unit>/`, several to an object: while some are being stored, those that come wait, and go together
with the next. So a store that takes 50 ms an object keeps up with any rate of answers.
"""

import asyncio
import dataclasses
import json
import uuid
from collections.abc import Sequence

from raystill import storage
from raystill.records import Generation, from_mapping
from raystill.teachers.units import Unit

FOLDER = "answered"


class Kept:
    """The kept answers of one unit, by the id of their row."""

    def __init__(self, unit: Unit) -> None:
        self.folder = storage.join(unit.folder, FOLDER, unit.name)
        self.rows: dict[str, list[Generation]] = {}
        for entry in storage.entries(self.folder):
            for answers in json.loads(storage.read(entry.url)):
                self.rows.setdefault(answers[0]["id"], [from_mapping(Generation, g) for g in answers])
        self._waiting: list[list[Generation]] = []
        self._turn = asyncio.Lock()

    async def keep(self, answers: Sequence[Generation]) -> None:
        """Store one row's answers; returns when they are."""
        self._waiting.append(list(answers))
        async with self._turn:
            if not self._waiting:  # they went with those of the row before
                return
            going = list(self._waiting)
            await asyncio.to_thread(self._store, going)
            del self._waiting[: len(going)]

    def _store(self, rows: Sequence[Sequence[Generation]]) -> None:
        said = json.dumps([[dataclasses.asdict(g) for g in answers] for answers in rows]).encode()
        storage.put_if_absent(storage.join(self.folder, uuid.uuid4().hex), said)


def cost(folder: str, units: set[str]) -> float:
    """What the answers kept for these units below a step's folder have cost, in the currency of the recipe's prices."""
    entries = storage.entries(storage.join(folder, FOLDER))
    ours = (e.url for e in entries if e.url.split("/")[-2] in units)
    return sum(float(g["cost"]) for url in ours for answers in json.loads(storage.read(url)) for g in answers)

"""One teacher replica: takes a unit, answers its rows concurrently, publishes the unit, hands back only counts.

A unit is one prompt part of about 256 rows and becomes one Parquet object, published whole. Every start of a unit leaves
an attempt object, so the count survives the process. From the third attempt the unit runs row by row with a marker
before each row; a row begun twice without an answer ended its engine twice, and is rejected for it.
"""

import asyncio
import collections
import contextlib
import hashlib
import math
import os
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import psutil
import pyarrow.compute as pc

from raystill import artifacts, plugins, recipe, staging, storage
from raystill.errors import RaystillError, StageError
from raystill.records import Generation, Prompt
from raystill.teachers import KINDS, EngineDied, RowError, Teacher, failure
from raystill.teachers.kept import Kept
from raystill.teachers.units import Done, StartUp, Unit, answer_batch

CAREFUL_ATTEMPT = 3
"""From this attempt on a unit runs row by row: two deaths may be bad luck, a third points at a row."""

STALL_LOOK_S = 5.0
"""Time between two looks whether anything was answered."""
ENGINE_DEATHS = 4
"""Deaths of engines that had answered nothing at all, before the run gives up: a row that comes first causes as many, and
with more no row is to blame."""
ROW_ATTEMPTS = 2
"""Starts of one row alone before it is given up: once may be a killed run."""


class Replica:
    """A teacher and its units; also the class of Ray Data's actors."""

    def __init__(self, teacher: dict[str, Any], model: artifacts.Checkpoint | None) -> None:
        block = recipe.Teacher.model_validate(teacher)
        self.stall_s = block.stall_s
        self.careful_attempt: float = CAREFUL_ATTEMPT
        self.has_answered = False
        self.last_answer = time.monotonic()
        self.in_flight = 0
        self.alone = False
        self.door = asyncio.Condition()
        self.broken: RaystillError | None = None
        self.start_up = StartUp()
        try:
            folder = staging.staged(model) if model else None
            self.start_up.mark("weights")
            self.teacher: Teacher = plugins.load(block.kind, KINDS, "teacher")(block, folder)
            self.start_up.mark("engine")
            if self.teacher.local:  # no engine: nothing that could die, nothing to watch
                self.stall_s = self.careful_attempt = math.inf
        except RaystillError as e:  # told with the first unit: an actor that cannot be made loses what its error was
            self.broken = e

    async def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Ray Data's side, see `units.answer_batch`."""
        return await answer_batch(self.run, batch, self.start_up)

    async def run(self, unit: Unit) -> Done:
        """Answer and publish one unit; the first publisher wins, and its counts are returned."""
        if self.broken:
            raise self.broken
        if await asyncio.to_thread(storage.exists, unit.url):  # another driver's, or ours before a restart
            return await asyncio.to_thread(published, unit)
        prompts, settled, attempt = await asyncio.to_thread(_begin, unit)
        asked = [p for p in prompts if p.id not in settled]
        if attempt >= self.careful_attempt:
            kept = await asyncio.to_thread(Kept, unit)
            async with self._nothing_else():
                answers = [await self._careful_row(unit, p, kept) for p in asked]
        elif getattr(self.teacher, "dear", False):
            kept = await asyncio.to_thread(Kept, unit)
            ended = await asyncio.gather(*(self._kept_row(unit, p, kept) for p in asked), return_exceptions=True)
            # All are waited for, also when one stops the run: what is on its way is paid for, and kept.
            if stops := [e for e in ended if isinstance(e, BaseException)]:
                raise stops[0]
            answers = [rows for rows in ended if not isinstance(rows, BaseException)]
        else:
            answers = await asyncio.gather(*(self._row(unit, p) for p in asked))
        settled |= {p.id: rows for p, rows in zip(asked, answers, strict=True)}
        for prompt in prompts:
            _refuse_swapped(prompt, settled[prompt.id])
        return await asyncio.to_thread(_publish, unit, [g for p in prompts for g in settled[p.id]])

    async def _row(self, unit: Unit, prompt: Prompt, alone: bool = False) -> list[Generation]:
        try:
            answers = await self._answer(prompt, alone)
        except RowError as e:
            return [failure(prompt, str(e), transient=e.transient, cost=e.cost)]
        except EngineDied as e:
            if not self.has_answered and _attempt(unit.folder, "engine") > ENGINE_DEATHS:
                raise StageError(
                    f"the teacher's engine dies before its first answer ({e}); see the log for its own words, and check "
                    "that this engine can run this model on this machine"
                ) from e
            _end_process()
        self.has_answered = True
        return answers

    async def _answer(self, prompt: Prompt, alone: bool) -> list[Generation]:
        """The teacher's answers. Raises EngineDied when, with rows in flight, none has been answered for stall_s."""
        if self.teacher.local:
            return await self.teacher.answer(prompt)
        async with self.door:
            await self.door.wait_for(lambda: alone or not self.alone)
            if not self.in_flight:
                self.last_answer = time.monotonic()
            self.in_flight += 1
        asked = asyncio.ensure_future(self.teacher.answer(prompt))
        try:
            while not (await asyncio.wait({asked}, timeout=min(STALL_LOOK_S, self.stall_s)))[0]:
                if time.monotonic() - self.last_answer > self.stall_s:
                    raise EngineDied(f"no answer at all for teacher.stall_s = {self.stall_s:g} s")
            self.last_answer = time.monotonic()
            return asked.result()
        finally:
            asked.cancel()
            async with self.door:
                self.in_flight -= 1
                self.door.notify_all()

    @contextlib.asynccontextmanager
    async def _nothing_else(self) -> AsyncIterator[None]:
        """No other row in this process: one that ends it must not leave its mark on the rows of other units."""
        async with self.door:
            await self.door.wait_for(lambda: not self.alone)
            self.alone = True
            await self.door.wait_for(lambda: not self.in_flight)
        try:
            yield
        finally:
            async with self.door:
                self.alone = False
                self.door.notify_all()

    async def _careful_row(self, unit: Unit, prompt: Prompt, kept: Kept) -> list[Generation]:
        if prompt.id in kept.rows:
            return kept.rows[prompt.id]
        row = f"{unit.name}.{hashlib.sha256(prompt.id.encode()).hexdigest()[:12]}"
        if _attempt(unit.folder, row) > ROW_ATTEMPTS:
            return [failure(prompt, "ended its engine")]
        return await self._kept_row(unit, prompt, kept, alone=True)

    async def _kept_row(self, unit: Unit, prompt: Prompt, kept: Kept, alone: bool = False) -> list[Generation]:
        """A row whose answers are kept by themselves."""
        if prompt.id in kept.rows:
            return kept.rows[prompt.id]
        answers = await self._row(unit, prompt, alone)
        if not any(g.transient for g in answers):
            await kept.keep(answers)
        return answers


def _begin(unit: Unit) -> tuple[list[Prompt], dict[str, list[Generation]], int]:
    """A unit's prompts, rows of an earlier outcome that need not be made anew, and the number of this attempt."""
    return artifacts.decode(Prompt, unit.read(), unit.source), _settled(unit), _attempt(unit.folder, unit.name)


def _settled(unit: Unit) -> dict[str, list[Generation]]:
    """Rows of an earlier outcome that need not be made anew."""
    rows: dict[str, list[Generation]] = {}
    if unit.before:
        for g in artifacts.decode(Generation, storage.read(unit.before), unit.before):
            rows.setdefault(g.id, []).append(g)
    return {i: found for i, found in rows.items() if not any(g.transient for g in found)}


def _refuse_swapped(prompt: Prompt, answers: Sequence[Generation]) -> None:
    """Raise StageError when a row carries another row's prompt: a plug-in teacher's mistake that nothing else would show."""
    for answer in answers:
        if (answer.id, answer.messages, answer.tools) != (prompt.id, prompt.messages, prompt.tools):
            raise StageError(
                f"the teacher answered row {prompt.id} with the prompt of row {answer.id}; nothing of this unit is kept: "
                "a teacher must return generation(prompt, ...) of the prompt that it was given"
            )


def _end_process() -> None:
    """End this actor with its engine: Ray makes another and hands it the units; an exception would end the run."""
    for child in psutil.Process().children(recursive=True):  # a stopped engine would outlive us and keep its memory
        with contextlib.suppress(psutil.Error):
            child.kill()
    os._exit(1)


def _publish(unit: Unit, rows: Sequence[Generation]) -> Done:
    storage.put_if_absent(unit.url, artifacts.encode(Generation, rows))
    return published(unit)


def published(unit: Unit) -> Done:
    """What a published unit holds, read back and verified."""
    data, columns = unit.outcome(Generation)
    errors = collections.Counter(e for e in columns["error"].to_pylist() if e)
    counts = {
        "rows": pc.count_distinct(columns["id"]).as_py(),
        "answers": columns.num_rows - errors.total(),
        "errors": dict(errors),
        "truncated": columns["finish_reason"].to_pylist().count("length"),
        **{k: sum(columns[k].to_pylist()) for k in ("prompt_tokens", "output_tokens", "transient", "cost")},
    }
    return Done(artifacts.describe(unit.name, data, columns.num_rows), counts)


def _attempt(folder: str, name: str) -> int:
    """Claim and return this start's number, from 1."""
    number = 1
    while not storage.put_if_absent(storage.join(folder, "attempts", f"{name}.{number}"), os.urandom(8)):
        number += 1
    return number

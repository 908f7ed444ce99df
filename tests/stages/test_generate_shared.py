"""Several drivers at the units of one folder, as several Ray clusters would be: no coordinator, and little done twice."""

import asyncio
import io
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

from raystill import artifacts, recipe
from raystill.artifacts import Manifest, Outcome, Table
from raystill.context import Context
from raystill.recipe import Compute, Teacher
from raystill.records import Generation, Message, Prompt
from raystill.stages import generate
from raystill.teachers import generation
from raystill.view import Lines

UNITS, DRIVERS, IN_FLIGHT = 100, 3, 2


class Slow:
    """Counts how often each row is asked."""

    local: ClassVar[bool] = True
    asked: ClassVar[Counter[str]] = Counter()

    def __init__(self, teacher: recipe.Teacher, model: str | None) -> None:
        pass

    async def answer(self, prompt: Prompt) -> list[Generation]:
        self.asked[prompt.id] += 1
        await asyncio.sleep(0.02)
        return [generation(prompt, text="yes")]

    def close(self) -> None:
        pass


def test_drivers_share_a_folders_units(tmp_path: Path) -> None:
    parts = []
    for i in range(UNITS):
        row = Prompt(f"r{i}", None, [Message("user", str(i))], None, "t", "f", "train", None, "{}")
        parts.append(artifacts.write_part(str(tmp_path / "p"), "train", Prompt, [row]))
    prompts = artifacts.commit(Table, str(tmp_path / "p"), Manifest("prompts", 1, "prepare", 1, "p", {}, {}, parts))
    compute = Compute.model_validate({"generate": {"units_in_flight": IN_FLIGHT}})

    def drive(_: int) -> Outcome:
        context = Context(str(tmp_path / "generate" / "g"), compute, Lines(io.StringIO()), 0.0, tmp_path)
        teacher = Teacher.model_validate({"kind": f"{__name__}:Slow"})
        return generate.generate(teacher, None, prompts, None, None, context)

    with ThreadPoolExecutor(DRIVERS) as drivers:
        outcomes = list(drivers.map(drive, range(DRIVERS)))
    assert len(Slow.asked) == UNITS
    assert Slow.asked.total() < 1.5 * UNITS, "three drivers that each do everything would ask three times as much"
    assert all(o.counts["rows"] == UNITS and o.files == outcomes[0].files for o in outcomes)

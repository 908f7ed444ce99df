"""A row that ends every engine, and comes before all others: it is given up, and not the run."""

import asyncio
import hashlib
import sys
from pathlib import Path
from typing import ClassVar

import pyarrow.parquet as pq
from runs import in_a_clean_process

from raystill import artifacts, recipe
from raystill.errors import StageError
from raystill.records import Generation, Message, Prompt
from raystill.teachers import EngineDied, generation
from raystill.teachers.replica import Replica
from raystill.teachers.units import Unit

GAVE_UP = 3
"""Exit code."""


class Mortal:
    """An engine that the row r0 ends at once."""

    local: ClassVar[bool] = False

    def __init__(self, teacher: recipe.Teacher, model: str | None) -> None:
        pass

    async def answer(self, prompt: Prompt) -> list[Generation]:
        if prompt.id == "r0":
            raise EngineDied("the engine's process is gone")
        await asyncio.sleep(0.1)
        return [generation(prompt, text="yes")]

    def close(self) -> None:
        pass


def run_replica(unit: Unit) -> None:
    block = recipe.Teacher(kind=f"{__name__}:Mortal").model_dump(mode="json", by_alias=True)
    try:
        asyncio.run(Replica(block, None).run(unit))
    except StageError:
        sys.exit(GAVE_UP)


def test_the_first_of_all_rows_may_end_its_engine(tmp_path: Path) -> None:
    rows = [Prompt(f"r{i}", None, [Message("user", "a")], None, "t", "f", "train", None, "{}") for i in range(8)]
    data = artifacts.encode(Prompt, rows)
    (tmp_path / "prompts.parquet").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    unit = Unit("train-1.parquet", str(tmp_path / "prompts.parquet"), digest, str(tmp_path / "out"))
    ends = [in_a_clean_process(run_replica, unit) for _ in range(5)]
    assert ends[4] == 0 and not {0, GAVE_UP} & set(ends[:4])  # two of the unit, two of the row, and then the end
    reasons = {row["id"]: row["error"] for row in pq.read_table(tmp_path / "out" / "train-1.parquet").to_pylist()}
    assert reasons == dict.fromkeys((f"r{i}" for i in range(8)), None) | {"r0": "ended its engine"}

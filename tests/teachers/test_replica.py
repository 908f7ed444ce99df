"""A replica by itself: what is kept, and what is refused."""

import asyncio
import hashlib
from pathlib import Path
from typing import ClassVar

import pytest

from raystill import artifacts, recipe
from raystill.errors import RaystillError, StageError
from raystill.records import Generation, Message, Prompt
from raystill.teachers import RowError, generation
from raystill.teachers.replica import Replica
from raystill.teachers.units import Done, Unit


class Dear:
    """Counts its calls, fails transiently at one row, and gives up at another until it is told not to."""

    local: ClassVar[bool] = True
    dear: ClassVar[bool] = True
    asked: ClassVar[list[str]] = []
    out_of_money: ClassVar[bool] = False

    def __init__(self, teacher: recipe.Teacher, model: str | None) -> None:
        pass

    async def answer(self, prompt: Prompt) -> list[Generation]:
        self.asked.append(prompt.id)
        if prompt.id == "r3":
            raise RowError("down", transient=True)
        if prompt.id == "r5" and self.out_of_money:
            await asyncio.sleep(0.05)
            raise StageError("no money left")
        return [generation(prompt, text="yes")]

    def close(self) -> None:
        pass


class Swapping(Dear):
    """Gives the first prompt's answer to every row."""

    dear: ClassVar[bool] = False
    first: Prompt | None = None

    async def answer(self, prompt: Prompt) -> list[Generation]:
        self.first = self.first or prompt
        return [generation(self.first, text="yes")]


def unit(root: Path) -> Unit:
    rows = [Prompt(f"r{i}", None, [Message("user", "a")], None, "t", "f", "train", None, "{}") for i in range(8)]
    data = artifacts.encode(Prompt, rows)
    (root / "prompts.parquet").write_bytes(data)
    return Unit("train-1.parquet", str(root / "prompts.parquet"), hashlib.sha256(data).hexdigest(), str(root / "out"))


def run(root: Path, teacher: type) -> Done:
    block = recipe.Teacher(kind=f"{__name__}:{teacher.__name__}").model_dump(mode="json", by_alias=True)
    return asyncio.run(Replica(block, None).run(unit(root)))


def test_what_was_paid_for_is_never_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dear, "asked", [])
    monkeypatch.setattr(Dear, "out_of_money", True)
    with pytest.raises(StageError, match="no money left"):
        run(tmp_path, Dear)
    assert len(Dear.asked) == 8
    monkeypatch.setattr(Dear, "out_of_money", False)
    done = run(tmp_path, Dear)
    assert sorted(Dear.asked[8:]) == ["r3", "r5"]
    assert done.counts["answers"] == 7
    assert done.counts["errors"] == {"down": 1}


def test_a_row_with_another_rows_answer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RaystillError, match="answered row r1 with the prompt of row r0"):
        run(tmp_path, Swapping)
    assert not list((tmp_path / "out").glob("*.parquet"))


class Watching(Dear):
    """Notes who else is being answered."""

    local: ClassVar[bool] = False
    dear: ClassVar[bool] = False
    now: ClassVar[set[str]] = set()
    beside: ClassVar[dict[str, set[str]]] = {}

    async def answer(self, prompt: Prompt) -> list[Generation]:
        self.now.add(prompt.id)
        await asyncio.sleep(0.01)
        self.beside[prompt.id] = set(self.now) - {prompt.id}
        self.now.remove(prompt.id)
        return [generation(prompt, text="yes")]


def test_a_unit_under_suspicion_runs_alone_in_its_process(tmp_path: Path) -> None:
    block = recipe.Teacher(kind=f"{__name__}:Watching").model_dump(mode="json", by_alias=True)
    rows = [Prompt(f"s{i}", None, [Message("user", "a")], None, "t", "f", "train", None, "{}") for i in range(8)]
    data = artifacts.encode(Prompt, rows)
    (tmp_path / "others.parquet").write_bytes(data)
    others = Unit(
        "train-2.parquet", str(tmp_path / "others.parquet"), hashlib.sha256(data).hexdigest(), str(tmp_path / "out")
    )
    (tmp_path / "out" / "attempts").mkdir(parents=True)
    for n in (1, 2):
        (tmp_path / "out" / "attempts" / f"train-1.parquet.{n}").touch()

    async def both() -> None:
        replica = Replica(block, None)
        await asyncio.gather(replica.run(others), replica.run(unit(tmp_path)))

    asyncio.run(both())
    assert all(not Watching.beside[f"r{i}"] for i in range(8))
    assert len(Watching.beside["s0"]) == 7


def test_a_row_that_two_processes_did_not_survive_is_never_asked_again(tmp_path: Path) -> None:
    block = recipe.Teacher(kind=f"{__name__}:Watching").model_dump(mode="json", by_alias=True)
    attempts, deadly = tmp_path / "out" / "attempts", hashlib.sha256(b"r4").hexdigest()[:12]
    attempts.mkdir(parents=True)
    for name in ("", f".{deadly}"):
        for n in (1, 2):
            (attempts / f"train-1.parquet{name}.{n}").touch()
    Watching.beside.clear()
    done = asyncio.run(Replica(block, None).run(unit(tmp_path)))
    assert done.counts["errors"] == {"ended its engine": 1}
    assert set(Watching.beside) == {f"r{i}" for i in range(8)} - {"r4"}

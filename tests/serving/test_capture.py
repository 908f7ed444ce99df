"""capture: kept rows become shards, and shards become prompts."""

import asyncio
import io
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from raystill import storage
from raystill.artifacts import Manifest, Table, commit
from raystill.context import Context
from raystill.errors import StorageError
from raystill.recipe import Capture, Compute, Data
from raystill.records import Prompt
from raystill.serving import capture
from raystill.serving.capture import Shelf, consents
from raystill.stages import prepare
from raystill.view import Lines


def request(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": text}], **more}


def filled(shelf: Shelf, rows: int) -> Shelf:
    async def go() -> None:
        for i in range(rows):
            shelf.add(request(f"question {i} of ann{i}@example.com"), f"answer {i}", "student")
        await asyncio.get_running_loop().shutdown_default_executor()
        shelf.close()

    asyncio.run(go())
    return shelf


@pytest.mark.parametrize(
    ("sent", "kept"), [({}, False), ({"x-raystill-consent": "no"}, False), ({"x-raystill-consent": " Yes "}, True)]
)
def test_only_yes_is_consent(sent: dict[str, str], kept: bool) -> None:
    assert consents(sent) is kept


@pytest.mark.parametrize("place", ["disk", "s3"])
def test_the_loop_closes_prepare_reads_what_was_kept(place: str, tmp_path: Path, s3: str) -> None:
    url = str(tmp_path / "captured") if place == "disk" else storage.join(s3, "captured")
    shelf = filled(Shelf(Capture(to=url)), capture.SHARD_ROWS + 44)
    assert (shelf.kept, shelf.lost) == (300, 0)
    context = Context(str(tmp_path / "made"), Compute(), Lines(io.StringIO()), 0.0, tmp_path)
    outcome = prepare.prepare(Data(train=url), "conversation", context)
    assert outcome.counts["read"] == 300
    made = commit(Table, context.url, Manifest("prompts", 1, "prepare", 1, "f", {}, {}, list(outcome.files)))
    rows = list(made.rows(Prompt))
    assert len(rows) == 300
    assert all(row.reference is None for row in rows)  # what a model said is no right answer
    assert {m.role for row in rows for m in row.messages} == {"system", "user"}
    assert "question 7 of [EMAIL]" in {row.messages[-1].content for row in rows}
    assert json.loads(rows[0].columns)["model"] == "student"
    assert not any("@example.com" in row.columns + row.messages[-1].content for row in rows)


def test_a_row_waits_for_others_and_then_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "SHARD_S", 0.05)

    async def go() -> None:
        shelf = Shelf(Capture(to=str(tmp_path)))
        shelf.add(request("hello", tools=[{"type": "function"}]), "hi", "student")
        assert not list(tmp_path.iterdir())
        async with asyncio.timeout(5):
            while not shelf.kept:
                await asyncio.sleep(0.01)

    asyncio.run(go())
    (file,) = tmp_path.iterdir()
    assert json.loads(file.read_text())["tools"] == [{"type": "function"}]


def test_a_store_that_refuses_loses_rows_says_so_without_them_and_answers_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(url: str, data: bytes) -> bool:
        raise StorageError(f"{url} is not accessible")

    monkeypatch.setattr(storage, "put_if_absent", refuse)
    with caplog.at_level(logging.WARNING):
        shelf = filled(Shelf(Capture(to=str(tmp_path))), 3)
    assert (shelf.kept, shelf.lost) == (0, 3)
    assert "3 captured requests are lost" in caplog.text
    assert "question" not in caplog.text

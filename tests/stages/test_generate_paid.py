"""A teacher that is paid by the answer, in generate and on held-out rows: a budget that holds, and nothing paid twice."""

import io
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fixtures_openai import Server, good

from raystill import artifacts
from raystill.artifacts import Manifest, Table
from raystill.asking import choose
from raystill.context import Context
from raystill.errors import Interrupted, OverBudget, RecipeError, StageError
from raystill.recipe import Compute, Evaluate, Teacher
from raystill.records import Answer, Generation, Message, Prompt
from raystill.stages import evaluate, generate
from raystill.teachers import paid
from raystill.view import Lines

ROWS, UNITS, IN_FLIGHT = 10, 6, 4
PRICE = {"input": 1e6 / 30, "output": 0}
"""A dollar an answer: the server counts 30 prompt tokens."""


def prompts_of(root: Path) -> Table:
    parts = []
    for unit in range(UNITS):
        rows = [
            Prompt(f"r{unit}-{i}", None, [Message("user", f"{unit} {i}")], None, "t", "f", "train", None, "{}")
            for i in range(ROWS)
        ]
        parts.append(artifacts.write_part(str(root / "p"), "train", Prompt, rows))
    return artifacts.commit(Table, str(root / "p"), Manifest("prompts", 1, "prepare", 1, "p", {}, {}, parts))


def teacher(server: Server, **more: Any) -> Teacher:
    endpoint = {"url": server.url, "model": "m", "key_env": "CANARY_KEY", "price": PRICE, "concurrency": IN_FLIGHT}
    return Teacher.model_validate({"kind": "endpoint", "endpoint": endpoint} | more)


def context(root: Path) -> Context:
    return Context(str(root / "generate" / "g"), Compute(), Lines(io.StringIO()), 0.5, root)


def test_a_budget_holds_over_runs_and_nothing_is_paid_twice(server: Server, tmp_path: Path) -> None:
    server.wait_s = 0.002
    prompts = prompts_of(tmp_path)
    for budget in (15.0, 32.0):
        with pytest.raises(OverBudget, match=r"raise budget\.usd") as stopped:
            generate.generate(teacher(server), None, prompts, budget, None, context(tmp_path))
        assert budget <= len(server.asked) < budget + IN_FLIGHT
        assert f"of {UNITS} units are done" in stopped.value.__notes__[0]
    outcome = generate.generate(teacher(server), None, prompts, 1000.0, None, context(tmp_path))
    assert len(server.asked) == ROWS * UNITS
    assert outcome.counts["cost"] == pytest.approx(ROWS * UNITS)
    made = artifacts.commit(
        Table, str(tmp_path / "generate" / "g"), Manifest("g", 1, "generate", 2, "g", {}, {}, list(outcome.files))
    )
    assert sorted(g.id for g in made.rows(Generation)) == sorted(p.id for p in prompts.rows(Prompt))


def test_what_was_paid_in_vain_counts_in_the_next_run(server: Server, tmp_path: Path) -> None:
    cut = (200, {}, good()[2].split(b"data: [DONE]")[0])
    server.script(cut)
    prompts = prompts_of(tmp_path)
    price = {"input": 1e6, "output": 0}
    dear = teacher(server)
    assert dear.endpoint is not None
    dear = dear.model_copy(
        update={"endpoint": dear.endpoint.model_validate(dear.endpoint.model_dump() | {"price": price})}
    )
    for _ in range(2):
        with pytest.raises(OverBudget):
            generate.generate(dear, None, prompts, 20.0, None, context(tmp_path))
    asked = len(server.asked)
    with pytest.raises(OverBudget):
        generate.generate(dear, None, prompts, 20.0, None, context(tmp_path))
    assert len(server.asked) == asked


def test_ctrl_c_waits_for_what_is_on_its_way_and_keeps_it(server: Server, tmp_path: Path) -> None:
    server.wait_s = 0.05
    prompts, stopping, answer = prompts_of(tmp_path), threading.Event(), server.says

    def says(i: int, body: dict[str, Any]) -> Any:
        if i == ROWS:
            stopping.set()
        return answer(i, body)

    server.says = says
    with pytest.raises(Interrupted):
        generate.generate(teacher(server), None, prompts, None, None, replace(context(tmp_path), stopping=stopping))
    first = len(server.asked)
    assert 0 < first < ROWS * UNITS
    server.wait_s = 0.0
    generate.generate(teacher(server), None, prompts, None, None, context(tmp_path))
    assert len(server.asked) == ROWS * UNITS


def held_out(root: Path, rows: int) -> Table:
    held = [Prompt(f"h{i:03}", None, [Message("user", f"{i}")], None, "t", "f", "test", "x", "{}") for i in range(rows)]
    part = artifacts.write_part(str(root / "h"), "test", Prompt, held)
    return artifacts.commit(Table, str(root / "h"), Manifest("prompts", 1, "prepare", 1, "h", {}, {}, [part]))


def test_held_out_rows_are_asked_under_the_budget_and_paid_once(server: Server, tmp_path: Path) -> None:
    rows = paid.ROWS + 10
    prompts, config = held_out(tmp_path, rows + 5), Evaluate(limit=rows, max_tokens=7)
    asked = teacher(server, system="You are the desk.", sampling={"n": 3, "temperature": 1.0})
    with pytest.raises(OverBudget, match=r"raise budget\.usd"):
        evaluate.answer_paid(config, asked, prompts, 20.0, context(tmp_path))
    assert 20 <= len(server.asked) < 20 + IN_FLIGHT
    outcome = evaluate.answer_paid(config, asked, prompts, 1000.0, context(tmp_path))
    assert len(server.asked) == rows
    assert outcome.counts["cost"] == pytest.approx(rows)
    assert outcome.counts["rows"] == rows
    body = server.asked[0]
    assert (body["max_tokens"], body["temperature"]) == (7, 0.0)
    assert [m["role"] for m in body["messages"]] == ["system", "user"]
    url = f"{context(tmp_path).url}/{outcome.files[0].path}"
    made = artifacts.decode(Answer, Path(url).read_bytes(), url)
    assert [a.id for a in made] == sorted(p.id for p in choose(prompts, config))
    assert {(a.model, a.text, a.output_tokens, a.error) for a in made} == {("teacher", "Hello", 20, None)}


def test_a_key_that_is_missing_is_said_before_anything_is_asked(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CANARY_KEY")
    with pytest.raises(RecipeError, match="export CANARY_KEY="):
        generate.generate(teacher(server), None, prompts_of(tmp_path), 5.0, None, context(tmp_path))
    with pytest.raises(RecipeError, match="export CANARY_KEY="):
        evaluate.answer_paid(Evaluate(), teacher(server), held_out(tmp_path, 12), 5.0, context(tmp_path))
    assert server.asked == []


def test_held_out_rows_that_failed_for_a_passing_reason_are_asked_again(server: Server, tmp_path: Path) -> None:
    cut = (200, {}, good()[2].split(b"data: [DONE]")[0])
    prompts = held_out(tmp_path, 12)
    strict = replace(context(tmp_path), max_error_rate=0.0)
    server.says = lambda i, body: cut if body["messages"][-1]["content"] == "7" else good()
    with pytest.raises(StageError, match=r"teacher failed on 1 of 12 requests.*Run again to ask those again"):
        evaluate.answer_paid(Evaluate(), teacher(server), prompts, None, strict)
    first = len(server.asked)
    server.script(good())
    outcome = evaluate.answer_paid(Evaluate(), teacher(server), prompts, 1000.0, strict)
    assert len(server.asked) == first + 1
    assert (outcome.counts["rows"], outcome.counts["errors"]) == (12, {})


def test_a_url_that_fails_on_too_many_held_out_rows_stops_the_run(server: Server, tmp_path: Path) -> None:
    server.script((400, {}, b"{}"))
    with pytest.raises(StageError, match=r"teacher failed on 12 of 12 requests.*HTTP 400"):
        evaluate.answer_paid(Evaluate(), teacher(server), held_out(tmp_path, 12), None, context(tmp_path))

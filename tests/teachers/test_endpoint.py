"""The endpoint teacher against a real server on a free port, scripted per request: every way an endpoint can behave."""

import asyncio
import dataclasses
import json
import logging
import time
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from fixtures_openai import KEY, QUESTION, USAGE, Said, Server, chunk, events, good, start

from raystill import client, recipe
from raystill.client import Refused
from raystill.errors import OverBudget, RaystillError, RecipeError, StageError
from raystill.records import Generation, Message, Prompt, schema, to_table
from raystill.teachers import RowError
from raystill.teachers.endpoint import FAILED_TRIES, Endpoint, key


def block(server: Server, endpoint: dict[str, Any] | None = None, **teacher: Any) -> recipe.Teacher:
    there = {"url": server.url, "model": "large", "key_env": "CANARY_KEY", **(endpoint or {})}
    return recipe.Teacher.model_validate({"kind": "endpoint", "endpoint": there, **teacher})


def prompt(i: int = 0, **more: Any) -> Prompt:
    values = {"conversation_id": None, "tools": None, "task": "t", "source": "f", "split": "train", "reference": None}
    asked = {"id": f"r{i}", "messages": [Message("user", QUESTION)], "columns": "{}"}
    return Prompt(**{**values, **asked, **more})


def ask(
    teacher: recipe.Teacher, *prompts: Prompt, prepare: Callable[[Endpoint], None] = lambda e: None
) -> list[list[Generation]]:
    async def go() -> list[list[Generation]]:
        endpoint = Endpoint(teacher, None)
        prepare(endpoint)
        try:
            return await asyncio.gather(*map(endpoint.answer, prompts or [prompt()]))
        finally:
            await endpoint.aclose()

    return asyncio.run(go())


def test_an_answer_fills_its_row(server: Server) -> None:
    price = {"input": 2.0, "output": 10.0}
    ((row,),) = ask(block(server, {"price": price}, system="Be kind.", examples=[{"user": "a", "assistant": "b"}]))
    assert (row.id, row.text, row.finish_reason, row.error) == ("r0", "Hello", "stop", None)
    assert (row.prompt_tokens, row.output_tokens, row.sample_index) == (30, 20, 0)
    assert row.cost == pytest.approx((30 * 2 + 20 * 10) / 1e6)
    assert row.elapsed_s > 0 and not row.transient
    assert row.messages == [Message("user", QUESTION)], "the student's view, not the teacher's"
    (sent,) = server.asked
    assert [m["role"] for m in sent["messages"]] == ["system", "user", "assistant", "user"]
    assert (sent["model"], sent["key"], sent["path"]) == ("large", f"Bearer {KEY}", "/v1/chat/completions")
    assert to_table(Generation, [row]).schema == schema(Generation)


def test_samples_are_requests_of_their_own_with_seeds_of_their_own(server: Server) -> None:
    server.says = lambda i, body: good(str(body["seed"]))
    (rows,) = ask(block(server, sampling={"n": 3}))
    assert [r.sample_index for r in rows] == [0, 1, 2]
    assert len({r.text for r in rows}) == 3
    (again,) = ask(block(server, sampling={"n": 3}))
    assert [r.text for r in again] == [r.text for r in rows]
    assert all("n" not in sent and sent["seed"] < 2**31 for sent in server.asked)


def test_sampling_and_extra_fields_are_sent_and_null_leaves_one_out(server: Server) -> None:
    extra = {"reasoning_effort": "low", "max_tokens": None, "max_completion_tokens": 99, "seed": None}
    tools = '[{"type": "function", "function": {"name": "find"}}]'
    ask(block(server, {"extra": extra}, sampling={"top_p": 0.5, "stop": ["\n"]}), prompt(tools=tools))
    (sent,) = server.asked
    assert not {"max_tokens", "seed"} & set(sent)
    assert (sent["reasoning_effort"], sent["max_completion_tokens"]) == ("low", 99)
    assert (sent["top_p"], sent["stop"], sent["tools"]) == (0.5, ["\n"], json.loads(tools))


def test_reasoning_and_tool_calls_reach_the_row(server: Server) -> None:
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"q": 1}'}}
    chunks = [chunk(reasoning_content="Hmm."), chunk(tool_calls=[call]), chunk("tool_calls")]
    server.script((200, {}, events(*chunks, {"choices": [], "usage": USAGE})))
    ((row,),) = ask(block(server))
    assert (row.text, row.reasoning, row.finish_reason) == ("", "Hmm.", "stop")
    (said,) = json.loads(row.tool_calls or "")
    assert said["function"] == {"name": "find", "arguments": '{"q": 1}'}


@pytest.mark.parametrize(("finish", "row"), [("length", "length"), ("max_tokens", "length"), ("eos", "stop")])
def test_ways_to_finish(server: Server, finish: str, row: str) -> None:
    server.script(good(finish=finish))
    assert ask(block(server))[0][0].finish_reason == row


def test_a_filtered_answer_is_an_error_row_that_was_paid_for(server: Server) -> None:
    server.script(good(finish="content_filter"))
    ((row,),) = ask(block(server, {"price": {"input": 0, "output": 1}}))
    assert (row.finish_reason, row.text, row.transient) == ("error", "", False)
    assert row.cost > 0 and row.error and "content_filter" in row.error


@pytest.mark.parametrize(
    "fault",
    [
        (500, {}, b"<html>oops</html>"),
        (503, {}, b""),
        (429, {"Retry-After": "0"}, b"{}"),
        (200, {"Content-Type": "text/html"}, b"<html><body>Sign in</body></html>"),
        (200, {}, b'{"error": {"message": "overloaded"}}'),
        (200, {}, events(chunk(content="Hel"), done=False)),
    ],
    ids=["500", "503", "429", "html", "error-body", "truncated"],
)
def test_what_passes_is_tried_again_and_what_does_not_is_transient(server: Server, fault: Said) -> None:
    server.script(fault, fault, good())
    assert ask(block(server))[0][0].text == "Hello"
    assert len(server.asked) == 3
    server.script(fault)
    with pytest.raises(RowError) as caught:
        ask(block(server))
    assert caught.value.transient
    assert len(server.asked) == 8


def test_a_429_holds_everybody_back_for_as_long_as_it_asks(server: Server) -> None:
    sent_at: list[float] = []

    def says(i: int, body: dict[str, Any]) -> Said:
        sent_at.append(time.monotonic())
        return (429, {"Retry-After": "0.4"}, b"") if i == 0 else good()

    server.says = says

    async def go() -> None:
        endpoint = Endpoint(block(server), None)
        first = asyncio.create_task(endpoint.answer(prompt(0)))
        while not endpoint.rate.not_before > 0:
            await asyncio.sleep(0.01)
        await asyncio.gather(first, *(endpoint.answer(prompt(i)) for i in range(1, 5)))
        assert endpoint.rate.pace < 1
        await endpoint.aclose()

    asyncio.run(go())
    assert len(sent_at) == 6
    assert min(sent_at[1:]) - sent_at[0] >= 0.4


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_stops_at_once(server: Server, status: int) -> None:
    server.script((status, {}, b"{}"))

    async def go() -> None:
        endpoint = Endpoint(block(server, {"concurrency": 1}), None)
        ended = await asyncio.gather(*(endpoint.answer(prompt(i)) for i in range(20)), return_exceptions=True)
        assert all(isinstance(e, Refused) for e in ended)
        await endpoint.aclose()

    asyncio.run(go())
    assert len(server.asked) == 1


@pytest.mark.parametrize(("status", "says"), [(404, "url and model"), (402, "payment"), (302, "never followed")])
def test_what_no_other_prompt_would_change_stops_the_run(server: Server, status: int, says: str) -> None:
    server.script((status, {}, b""))
    with pytest.raises(StageError, match=says):
        ask(block(server))
    assert len(server.asked) == 1


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_request_that_can_never_succeed_rejects_its_row_alone(server: Server, status: int) -> None:
    server.says = lambda i, body: (status, {}, b"{}") if body["messages"][0]["content"] == "bad" else good()
    with pytest.raises(RowError, match=f"HTTP {status}") as caught:
        ask(block(server), prompt(messages=[Message("user", "bad")]))
    assert not caught.value.transient
    assert ask(block(server))[0][0].text == "Hello"
    assert len(server.asked) == 2


def test_a_redirect_to_another_host_is_not_followed(server: Server) -> None:
    other = start()
    server.script((307, {"Location": f"http://localhost:{other.server_address[1]}/v1/chat/completions"}, b""))
    with pytest.raises(StageError, match="redirects"):
        ask(block(server))
    other.shutdown()
    other.server_close()
    assert not other.asked


def test_an_answer_that_drips_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.drip_s = 0.02
    monkeypatch.setattr("raystill.teachers.endpoint.ATTEMPTS", 2)
    started = time.monotonic()
    with pytest.raises(RowError, match=r"no whole answer in 0\.3 s") as caught:
        ask(block(server, {"timeout_s": 0.3}))
    assert caught.value.transient
    assert time.monotonic() - started < 5


def test_some_samples_may_fail_and_keep_the_others(server: Server) -> None:
    server.says = lambda i, body: good() if i % 2 else (400, {}, b"")
    (rows,) = ask(block(server, {"concurrency": 1}, sampling={"n": 4}))
    assert sorted((r.sample_index, r.error) for r in rows if r.error is None) == [(1, None), (3, None)]
    assert [r.error for r in rows if r.error] == ["HTTP 400", "HTTP 400"]


def test_the_budget_is_passed_by_no_more_than_what_is_in_flight(server: Server) -> None:
    server.wait_s = 0.02
    dollar = {"input": 0, "output": 1e6 / USAGE["completion_tokens"]}
    made = block(server, {"price": dollar, "concurrency": 4})

    async def go() -> None:
        endpoint = Endpoint(made, None)
        endpoint.spent, endpoint.budget = 5.0, 15.0
        ended = await asyncio.gather(*(endpoint.answer(prompt(i)) for i in range(60)), return_exceptions=True)
        answered = [e for e in ended if not isinstance(e, BaseException)]
        over = [e for e in ended if isinstance(e, OverBudget)]
        assert len(answered) + len(over) == 60
        assert endpoint.spent == pytest.approx(5 + len(answered))
        assert len(server.asked) == len(answered)
        # The last request goes while 14 of 15 dollars are booked, and three others are on their way.
        assert 15.0 <= endpoint.spent <= 15.0 + 3.0
        assert "15.00" in str(over[0]) and "budget.usd" in str(over[0]) and "run again" in str(over[0])
        asked = len(server.asked)
        with pytest.raises(OverBudget):
            await endpoint.answer(prompt(99))
        assert len(server.asked) == asked
        await endpoint.aclose()

    asyncio.run(go())
    assert server.most_at_once <= 4


def test_answers_cut_on_their_way_are_paid_for(server: Server) -> None:
    cut = (200, {}, events(chunk(content="Hel"), chunk(content="lo"), done=False))
    server.script(cut, good())
    ((row,),) = ask(block(server, {"price": {"input": 0, "output": 1e6}}))
    assert row.cost == 2 + USAGE["completion_tokens"]
    server.script(cut)
    with pytest.raises(RowError) as caught:
        ask(block(server, {"price": {"input": 0, "output": 1e6}}))
    assert caught.value.cost == 2 * client.ATTEMPTS


def test_an_endpoint_that_stays_down_stops_the_run_and_not_row_by_row(server: Server) -> None:
    server.script((503, {}, b""))

    def short(endpoint: Endpoint) -> None:
        endpoint.breaker.pause_s = endpoint.breaker.longest_s = 0.01

    with pytest.raises(StageError, match=r"does not answer \(HTTP 503\)"):
        ask(block(server), *(prompt(i) for i in range(40)), prepare=short)
    assert len(server.asked) < 40 + FAILED_TRIES


def test_requests_per_minute_are_kept(server: Server) -> None:
    started = time.monotonic()
    ask(block(server, {"requests_per_minute": 600}), *(prompt(i) for i in range(20)))
    assert time.monotonic() - started > 0.9  # ten at once, and ten more at ten per second


@pytest.mark.parametrize(
    "fault",
    [400, 401, 403, 404, 429, 500, 200, 307],
)
def test_keys_prompts_and_answers_stay_out_of_messages_logs_and_rows(
    server: Server, fault: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The endpoint is spiteful: its errors repeat the key and the prompt."""
    said = json.dumps({"error": {"message": f"{KEY}: {QUESTION}"}}).encode()
    server.script((fault, {"X-Echo": KEY, "Location": f"http://localhost/{KEY}"}, said))
    caplog.set_level(logging.INFO)
    with pytest.raises((RowError, RaystillError)) as caught:
        ask(block(server))
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + caplog.text
    assert KEY not in shown
    assert QUESTION not in shown
    server.script(good())
    ((row,),) = ask(block(server, {"price": {"input": 1, "output": 1}}))
    assert KEY not in json.dumps(dataclasses.asdict(row))


def test_a_key_comes_from_the_environment_or_a_file_and_is_one_word(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    path = tmp_path / "key"
    path.write_text(f"{KEY}\n")
    from_file = block(server, {"key_env": None, "key_file": str(path)}).endpoint
    assert from_file and key(from_file) == KEY
    none = block(server, {"key_env": None}).endpoint
    assert none and key(none) is None
    for bad in ("", f"{KEY} {KEY}", f"{KEY}\x00", "schlüssel-" + KEY):
        path.write_text(bad)
        with pytest.raises(RecipeError) as caught:
            key(from_file)
        assert KEY not in str(caught.value)
    monkeypatch.delenv("CANARY_KEY")
    with pytest.raises(RecipeError, match="export CANARY_KEY"):
        Endpoint(block(server), None)


def test_a_unit_of_its_rows_is_published(server: Server, tmp_path: Any) -> None:
    from raystill import artifacts, storage
    from raystill.teachers.replica import Replica
    from raystill.teachers.units import Unit

    rows = [prompt(i, messages=[Message("user", f"question {i}")]) for i in range(30)]
    part = artifacts.write_part(str(tmp_path / "prompts"), "train", Prompt, rows)
    unit = Unit("train-u.parquet", str(tmp_path / "prompts" / part.path), part.sha256, str(tmp_path / "generate"))
    server.says = lambda i, body: (400, {}, b"") if body["messages"][0]["content"] == "question 7" else good()
    made = block(server, {"price": {"input": 1, "output": 1}}).model_dump(mode="json", by_alias=True)
    done = asyncio.run(Replica(made, None).run(unit))
    assert (done.counts["rows"], done.counts["answers"], done.counts["errors"]) == (30, 29, {"HTTP 400": 1})
    url = storage.join(unit.folder, unit.name)
    answered = artifacts.decode(Generation, storage.read(url), url)
    assert sum(g.cost for g in answered) == pytest.approx(29 * 50 / 1e6)
    assert KEY not in repr(answered)  # decoded: pages are compressed

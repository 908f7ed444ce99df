"""guard before small ASGI applications: who may ask, how much, for how long."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from raystill.serving import guard
from raystill.serving.guard import App, Bounds, Guard
from raystill.serving.keys import Key, digest

KEYS = (
    Key("ours", digest("right")),
    Key("few", digest("few"), requests_per_minute=2),
    Key("small", digest("small"), tokens_per_minute=100),
)
BOUNDS = Bounds(max_body_bytes=2000, max_tokens=100, timeout_s=5, in_flight=4)
BEARER = {"Authorization": "Bearer right"}
CHAT = "/v1/chat/completions"


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the body it was given."""
    body = (await receive())["body"] if scope["method"] == "POST" else b"{}"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def streaming(*events: Any, then: Any = None) -> App:
    """Streams events, then waits, fails or ends."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for event in events:
            data = f"data: {json.dumps(event)}\n\n".encode()
            await send({"type": "http.response.body", "body": data, "more_body": True})
        if then:
            await then()
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    return app


@contextlib.asynccontextmanager
async def client(app: Guard) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=BEARER) as made:
        yield made


def ask(
    method: str, path: str, app: App = echo, keys: tuple[Key, ...] = KEYS, bounds: Bounds = BOUNDS, **request: Any
) -> httpx.Response:
    async def go() -> httpx.Response:
        async with client(Guard(app, keys, bounds)) as made:
            return await made.request(method, path, **request)

    return asyncio.run(go())


def test_the_right_key_passes_with_its_body() -> None:
    assert ask("POST", CHAT, json={"model": "m"}).json() == {"model": "m"}


@pytest.mark.parametrize("given", ["", "Bearer wrong", "right"])
def test_any_other_key_is_refused(given: str) -> None:
    answer = ask("GET", "/v1/models", headers={"Authorization": given})
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "authentication_error"
    assert "right" not in answer.text


@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/nothing", "/health/../v1/models"])
def test_all_paths_but_health_need_a_key(path: str) -> None:
    assert ask("GET", path, headers={"Authorization": ""}).status_code == 401
    assert ask("GET", "/health", headers={"Authorization": ""}).status_code == 200
    assert ask("POST", "/health", headers={"Authorization": ""}).status_code == 401


def test_without_keys_all_on_this_machine_may_ask() -> None:
    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000"):
        assert ask("POST", CHAT, keys=(), headers={"Host": host}, json={}).status_code == 200


def test_without_keys_no_page_whose_name_leads_here_may_ask() -> None:
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example"):
        assert ask("POST", CHAT, keys=(), headers={"Host": host}, json={}).status_code == 403


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [(b"x" * 2001, 413, "larger than 2000 bytes"), (b"not json", 400, "not JSON"), (b'{"n": 1000}', 400, "'n' is not")],
)
def test_a_bad_body_is_refused_in_openais_form(body: bytes, status: int, says: str) -> None:
    answer = ask("POST", CHAT, content=body)
    assert answer.status_code == status
    assert says in answer.json()["error"]["message"]


def test_a_body_without_declared_length_is_bounded_too() -> None:
    async def endless() -> Any:
        for _ in range(100):
            yield b"x" * 100

    assert ask("POST", CHAT, content=endless()).status_code == 413


def test_a_slow_body_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_S", 0.05)

    async def drip() -> Any:
        yield b"{"
        await asyncio.sleep(5)

    assert ask("POST", CHAT, content=drip()).status_code == 408


@pytest.mark.parametrize("header", ["X-Request-Timeout-Seconds", "X-Request-Disconnect-Disabled"])
def test_nobody_switches_the_time_limit_off(header: str) -> None:
    assert ask("POST", CHAT, headers={header: "0"}, json={}).status_code == 400


async def forever() -> None:
    await asyncio.Event().wait()


async def broken() -> None:
    raise RuntimeError("canary")


SHORT = Bounds(max_body_bytes=2000, max_tokens=100, timeout_s=0.1, in_flight=4)


def test_an_answer_that_takes_too_long_is_a_408_and_frees_what_made_it() -> None:
    freed = []

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        try:
            await forever()
        finally:
            freed.append(True)

    answer = ask("POST", CHAT, app=slow, bounds=SHORT, json={})
    assert (answer.status_code, freed) == (408, [True])
    assert "serve.timeout_s" in answer.json()["error"]["message"]


@pytest.mark.parametrize(("then", "code"), [(forever, 408), (broken, 500)])
def test_a_stream_that_breaks_ends_with_an_error_and_without_done(then: Any, code: int) -> None:
    lines = ask("POST", CHAT, app=streaming({"a": 1}, then=then), bounds=SHORT, json={}).text.strip().split("\n\n")
    assert lines[0] == 'data: {"a": 1}'
    assert json.loads(lines[1].removeprefix("data: "))["error"]["code"] == code
    assert len(lines) == 2
    assert "canary" not in lines[1]


def test_more_than_may_wait_are_told_to_come_again() -> None:
    async def go() -> list[httpx.Response]:
        opened = asyncio.Event()

        async def wait(scope: Any, receive: Any, send: Any) -> None:
            await opened.wait()
            await echo(scope, receive, send)

        app = Guard(wait, KEYS, BOUNDS)
        async with client(app) as made:
            asked = [asyncio.create_task(made.post(CHAT, json={})) for _ in range(6)]
            while sum(task.done() for task in asked) < 2:
                await asyncio.sleep(0)
            opened.set()
            answers = await asyncio.gather(*asked)
        assert app.in_flight == 0
        return answers

    answers = asyncio.run(go())
    assert sorted(answer.status_code for answer in answers) == [200] * 4 + [503] * 2
    assert all(answer.headers["retry-after"] == "1" for answer in answers if answer.status_code == 503)


def test_a_key_has_its_requests_a_minute_and_the_others_theirs() -> None:
    async def go() -> list[httpx.Response]:
        async with client(Guard(echo, KEYS, BOUNDS)) as made:
            few = {"Authorization": "Bearer few"}
            return [await made.post(CHAT, json={}, headers=few) for _ in range(3)] + [await made.post(CHAT, json={})]

    answers = asyncio.run(go())
    assert [answer.status_code for answer in answers] == [200, 200, 429, 200]
    assert 25 < int(answers[2].headers["retry-after"]) <= 30
    assert answers[2].json()["error"]["type"] == "rate_limit_error"


USAGE = {"choices": [], "usage": {"prompt_tokens": 90, "completion_tokens": 60}}
PIECE = {"choices": [{"delta": {"content": "Hi"}}]}


@pytest.mark.parametrize("asked", [None, {"include_usage": False}, {"include_usage": True}])
def test_a_streams_tokens_are_counted_and_shown_only_to_who_asked(asked: Any) -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(json.loads((await receive())["body"]))
        await streaming(PIECE, USAGE)(scope, receive, send)

    async def go() -> list[httpx.Response]:
        async with client(Guard(app, KEYS, BOUNDS)) as made:
            request = {"stream": True} | ({"stream_options": asked} if asked else {})
            small = {"Authorization": "Bearer small"}
            return [await made.post(CHAT, json=request, headers=small) for _ in range(2)]

    first, second = asyncio.run(go())
    assert seen[0]["stream_options"]["include_usage"] is True
    assert ("usage" in first.text) == bool(asked and asked["include_usage"])
    assert first.text.endswith("data: [DONE]\n\n")
    assert second.status_code == 429
    assert 29 < int(second.headers["retry-after"]) <= 31


def test_whole_answers_and_cut_ones_are_counted_too() -> None:
    whole = {"choices": [{}], "usage": {"prompt_tokens": 100, "completion_tokens": 20}}

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(whole).encode()})

    async def left(app: App, request: dict[str, Any]) -> float:
        made = Guard(app, KEYS, BOUNDS)
        async with client(made) as asking:
            await asking.post(CHAT, json=request, headers={"Authorization": "Bearer small"})
        tokens = made.allowances["small"].tokens
        assert tokens is not None
        return tokens.level

    assert asyncio.run(left(answer, {})) == pytest.approx(-20, abs=1)
    cut = asyncio.run(left(streaming(*[PIECE] * 30, then=broken), {"stream": True, "user": "x" * 80}))
    assert 30 < cut < 50


def test_without_a_token_limit_a_body_passes_as_it_came() -> None:
    assert ask("POST", CHAT, content=b'{ "stream":true}').text == '{ "stream":true}'

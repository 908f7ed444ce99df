"""guard before a small ASGI application: who may ask, and what."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from raystill.serving.guard import DEEPEST, App, Guard


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the body it was given."""
    body = (await receive())["body"] if scope["method"] == "POST" else b"{}"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def ask(method: str, path: str, key: str | None = "right", app: App = echo, **request: Any) -> httpx.Response:
    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(Guard(app, key, max_body_bytes=2000, max_tokens=100))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **request)

    return asyncio.run(go())


BEARER = {"Authorization": "Bearer right"}
CHAT = "/v1/chat/completions"


def test_the_right_key_passes_with_its_body() -> None:
    assert ask("POST", CHAT, headers=BEARER, json={"model": "m"}).json() == {"model": "m"}


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "right"}])
def test_any_other_key_is_refused(headers: dict[str, str]) -> None:
    answer = ask("GET", "/v1/models", headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["type"] == "authentication_error"
    assert "right" not in answer.text.replace("bearer", "")


def test_health_needs_no_key() -> None:
    assert ask("GET", "/health").status_code == 200


def test_without_a_key_all_may_ask() -> None:
    assert ask("POST", CHAT, key=None, json={}).status_code == 200


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return {"messages": value}


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"x" * 2001, 413, "larger than 2000 bytes"),
        (b"not json", 400, "not JSON"),
        (b"[]", 400, "not a JSON object"),
        (nested(DEEPEST + 1), 400, "nested deeper"),
        ({"n": 1000}, 400, "'n' is not a number from 0 to 8"),
        ({"n": "1000"}, 400, "'n' is not a number from 0 to 8"),
        ({"max_tokens": 101}, 400, "'max_tokens' is not a number from 0 to 100"),
        ({"max_completion_tokens": 1e12}, 400, "'max_completion_tokens' is not a number from 0 to 100"),
        (b'{"max_tokens": NaN}', 400, "'max_tokens' is not"),
        ({"logprobs": 10_000}, 400, "'logprobs'"),
        ({"prompt_logprobs": -1}, 400, "'prompt_logprobs'"),
        ({"prompt": ["a"] * 9, "n": 8}, 400, "prompts times 'n'"),
        ({"bad_words": ["a"] * 100}, 400, "'bad_words' has more"),
        ({"use_beam_search": True}, 400, "'use_beam_search' is not accepted"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, 400, "'response_format' may only be"),
        ({"tool_choice": "required"}, 400, "'tool_choice' may only be"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]},
            400,
            "only text parts",
        ),
        ({"stop": ["a"] * 40}, 400, "'stop' has more"),
        ({"chat_template": "{{ ''.__class__ }}"}, 400, "'chat_template' is not accepted"),
    ],
)
def test_a_request_without_bound_is_refused_in_openais_form(body: Any, status: int, says: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = ask("POST", CHAT, headers=BEARER, content=content)
    assert answer.status_code == status
    assert says in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}], "logprobs": True},
        {"prompt": [1, 2, 3] * 50, "n": 8, "logprobs": 5},
        {"response_format": {"type": "json_object"}, "tool_choice": "auto", "stop": ["a"], "max_tokens": None},
    ],
)
def test_what_openais_client_sends_passes(body: Any) -> None:
    assert ask("POST", CHAT, headers=BEARER, json=body).json() == body


def test_a_full_queue_says_when_to_come_again() -> None:
    async def full(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 503, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    answer = ask("POST", CHAT, headers=BEARER, json={}, app=full)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_a_body_without_declared_length_is_bounded_too() -> None:
    async def endless() -> Any:
        for _ in range(100):
            yield b"x" * 100

    assert ask("POST", CHAT, headers=BEARER, content=endless()).status_code == 413

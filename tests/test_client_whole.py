"""client asking for answers that are no streams."""

import asyncio
from dataclasses import replace

import pytest
from fixtures_openai import USAGE, Server, chunk, events

from raystill.client import Client, Passing, Reply, request
from raystill.records import Message

ASKED = [Message("user", "q")]


def ask(server: Server, stream: bool) -> Reply:
    async def go() -> Reply:
        async with Client(server.url) as to:
            return await to.attempt(request("m", ASKED, 9, stream=stream))

    return asyncio.run(go())


def test_a_whole_answer_is_the_same_reply_as_a_streamed_one(server: Server) -> None:
    server.script(
        (200, {}, events(chunk(content="Hello, "), chunk("stop", content="you"), {"choices": [], "usage": USAGE}))
    )
    streamed, whole = ask(server, stream=True), ask(server, stream=False)
    assert replace(whole, ttft_s=0, elapsed_s=0) == replace(streamed, ttft_s=0, elapsed_s=0)
    assert whole.text == "Hello, you" and whole.output_tokens == USAGE["completion_tokens"]
    assert "stream" in server.asked[0] and not {"stream", "stream_options"} & server.asked[1].keys()


@pytest.mark.parametrize("body", [b'{"error": "x"}', b"[]", b'{"choices": [1]}', b"{", b'{"choices": []}', b"\xff"])
def test_what_is_no_answer_may_pass(server: Server, body: bytes) -> None:
    server.script((200, {}, body))
    with pytest.raises(Passing):
        ask(server, stream=False)

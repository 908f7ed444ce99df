"""client against a scripted server on a real socket: every fault of an OpenAI-compatible endpoint, sorted rightly."""

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from raystill import client as module
from raystill.client import Client, Refused, Reply, RequestFailed
from raystill.records import Message

ASKED = [Message("user", "a secret question")]
USAGE = {"prompt_tokens": 3, "completion_tokens": 2}


def chunk(text: str = "", finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}, "finish_reason": finish}], **more}


def events(*chunks: Any, done: bool = True) -> bytes:
    lines = [f"data: {c if isinstance(c, str) else json.dumps(c)}\n\n" for c in chunks]
    return "".join([*lines, "data: [DONE]\n\n" if done else ""]).encode()


GOOD = events(chunk("Hel"), chunk("lo", "stop"), {"choices": [], "usage": USAGE})


class Server(ThreadingHTTPServer):
    """Answers each request with the next of its script: (status, headers, body)."""

    script: list[tuple[int, dict[str, str], bytes]]
    asked: list[dict[str, Any]]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body | {"authorization": self.headers.get("Authorization")})
        status, headers, answer = self.server.script.pop(0)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(module, "BACKOFF_S", 0.001)
    made = Server(("127.0.0.1", 0), Handler)
    made.asked = []
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()


def ask(server: Server, *script: tuple[int, dict[str, str], bytes], key: str | None = None) -> Reply:
    server.script = list(script)

    async def go() -> Reply:
        async with Client(f"http://127.0.0.1:{server.server_address[1]}", key) as client:
            return await client.chat("student", ASKED, 16)

    return asyncio.run(go())


def test_an_answer_has_its_text_usage_and_times(server: Server) -> None:
    reply = ask(server, (200, {}, GOOD), key="k")
    assert (reply.text, reply.finish_reason, reply.prompt_tokens, reply.output_tokens) == ("Hello", "stop", 3, 2)
    assert 0 < reply.ttft_s <= reply.elapsed_s
    assert server.asked[0]["authorization"] == "Bearer k"
    assert server.asked[0]["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    "fault",
    [
        (429, {"Retry-After": "0"}, b""),
        (500, {}, b"<html>oops</html>"),
        (503, {}, b""),
        (200, {}, events({"error": {"message": "overloaded"}})),
        (200, {}, events(chunk("Hel"), done=False)),
        (200, {}, events(chunk("Hel"), '{"choices": [')),
        (200, {}, events(chunk("Hello", "stop"))),
        (200, {}, b'{"error": {"message": "not a stream"}}'),
        (429, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, b""),
        (503, {"Retry-After": "soon"}, b""),
        (200, {}, events(["no chunk"])),
        (200, {}, events({"choices": [{"delta": "text"}]})),
        (200, {}, events({"choices": [{"delta": {"content": ["text"]}}]})),
        (200, {}, events({"choices": [{"delta": {"tool_calls": [7]}}]})),
        (200, {}, events(chunk("Hello", "stop"), {"choices": [], "usage": {"prompt_tokens": 3}})),
        (200, {"Content-Encoding": "gzip"}, b"not gzip"),
    ],
    ids=[
        "429",
        "500-html",
        "503",
        "error-in-stream",
        "cut",
        "broken-json",
        "no-usage",
        "error-body",
        "past-date",
        "no-date",
        "list",
        "no-delta",
        "no-text",
        "no-call",
        "half-usage",
        "not-gzip",
    ],
)
def test_what_may_pass_is_tried_again(server: Server, fault: tuple[int, dict[str, str], bytes]) -> None:
    assert ask(server, fault, fault, (200, {}, GOOD)).text == "Hello"
    assert len(server.asked) == 3


def test_it_gives_up_after_five_attempts(server: Server) -> None:
    with pytest.raises(RequestFailed, match="HTTP 503"):
        ask(server, *[(503, {}, b"")] * 9)
    assert len(server.asked) == 5


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_stops_at_once(server: Server, status: int) -> None:
    with pytest.raises(Refused, match="refuses the key"):
        ask(server, (status, {}, b""))
    assert len(server.asked) == 1


def test_a_request_that_can_never_succeed_fails_alone_and_keeps_its_content(server: Server) -> None:
    with pytest.raises(RequestFailed) as caught:
        ask(server, (400, {}, b'{"error": {"message": "a secret question is too long"}}'))
    assert str(caught.value) == "HTTP 400"
    assert len(server.asked) == 1


def test_redirects_are_not_followed(server: Server) -> None:
    with pytest.raises(RequestFailed, match="HTTP 302"):
        ask(server, (302, {"Location": "http://169.254.169.254/"}, b""))


def test_nobody_listening_is_a_failure_of_the_request(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async def go() -> Reply:
        async with Client("http://127.0.0.1:1") as client:
            return await client.chat("student", ASKED, 16)

    with pytest.raises(RequestFailed, match="ConnectError"):
        asyncio.run(go())


def test_an_answer_that_drips_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    released = threading.Event()

    def drip(handler: Handler) -> None:
        handler.rfile.read(int(handler.headers["Content-Length"]))
        handler.send_response(200)
        handler.end_headers()
        while not released.wait(0.02):
            handler.wfile.write(events(chunk("x"), done=False))

    monkeypatch.setattr(Handler, "do_POST", drip)

    async def go() -> Reply:
        async with Client(f"http://127.0.0.1:{server.server_address[1]}", timeout_s=0.3) as client:
            return await client.chat("student", ASKED, 16)

    try:
        with pytest.raises(RequestFailed, match="no whole answer in"):
            asyncio.run(go())
    finally:
        released.set()


def test_a_url_may_end_in_v1_and_a_local_one_passes_by_the_proxy(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    server.script = [(200, {}, GOOD)]

    async def go() -> Reply:
        async with Client(f"http://127.0.0.1:{server.server_address[1]}/v1") as client:
            return await client.chat("student", ASKED, 16)

    assert asyncio.run(go()).text == "Hello"


def test_a_stream_gives_its_pieces(server: Server) -> None:
    server.script = [(200, {}, GOOD)]

    async def go() -> list[str]:
        async with Client(f"http://127.0.0.1:{server.server_address[1]}") as client:
            return [piece async for piece in client.stream("student", ASKED, 16)]

    assert asyncio.run(go()) == ["Hel", "lo"]


def test_reasoning_and_tool_calls_are_put_together_from_their_pieces(server: Server) -> None:
    def piece(**delta: Any) -> dict[str, Any]:
        return {"choices": [{"delta": delta, "finish_reason": None}]}

    def call(index: int, arguments: str, **start: Any) -> dict[str, Any]:
        return {"index": index, **start, "function": {"arguments": arguments, **({"name": "find"} if start else {})}}

    body = events(
        piece(reasoning_content="First "), piece(reasoning="think."),
        piece(tool_calls=[call(0, "", id="a", type="function")]), piece(tool_calls=[call(0, '{"q": ')]),
        piece(tool_calls=[call(1, "{}", id="b"), call(0, "1}")]), chunk(finish="tool_calls", usage=USAGE),
    )  # fmt: skip
    reply = ask(server, (200, {}, body))
    assert (reply.text, reply.reasoning, reply.finish_reason) == ("", "First think.", "tool_calls")
    calls = json.loads(reply.tool_calls or "")
    assert [(c["id"], c["function"]) for c in calls] == [
        ("a", {"name": "find", "arguments": '{"q": 1}'}),
        ("b", {"name": "find", "arguments": "{}"}),
    ]


def test_an_attempt_says_how_much_had_come_when_it_was_cut(server: Server) -> None:
    server.script = [(200, {}, events(chunk("Hel"), chunk("lo"), done=False))]

    async def go() -> None:
        async with Client(f"http://127.0.0.1:{server.server_address[1]}") as client:
            await client.attempt(module.request("student", ASKED, 16))

    with pytest.raises(module.Passing) as caught:
        asyncio.run(go())
    assert caught.value.pieces == 2
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("ends", [True, False], ids=["ends", "stays-open"])
def test_a_connection_is_used_again_where_its_answer_has_an_end(ends: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not ends:
        monkeypatch.setattr(module, "DRAIN_S", 0.05)
    connections = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]))
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(GOOD), GOOD))
                await asyncio.sleep(0.01)
                writer.write(b"0\r\n\r\n" if ends else b"")

    async def go() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
            for _ in range(3):
                assert (await client.chat("student", ASKED, 16)).text == "Hello"
        server.close()

    asyncio.run(go())
    assert connections == (1 if ends else 3)


def test_a_whole_answer_is_kept_when_the_time_ends_before_its_stream() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(GOOD), GOOD))
        with contextlib.suppress(ConnectionError):
            await reader.read()  # until the client leaves

    async def go() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with Client(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout_s=0.5) as client:
            reply = await client.chat("student", ASKED, 16)
        assert reply.text == "Hello"
        assert reply.elapsed_s < 0.4
        server.close()

    asyncio.run(go())


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("http://h:1", "http://h:1/v1/chat/completions"),
        ("http://h:1/", "http://h:1/v1/chat/completions"),
        ("https://h/v1", "https://h/v1/chat/completions"),
        ("https://h/v1beta/openai/", "https://h/v1beta/openai/chat/completions"),
    ],
)
def test_a_url_with_a_path_is_taken_as_it_is(url: str, asked: str) -> None:
    request = Client(url)._pools[0].build_request("POST", "chat/completions")
    assert str(request.url) == asked

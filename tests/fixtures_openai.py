"""An OpenAI-compatible server on a free port, scripted per request."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from raystill import client

KEY = "sk-canary-4f1d"
QUESTION = "canary question"
USAGE = {"prompt_tokens": 30, "completion_tokens": 20}
Said = tuple[int, dict[str, str], bytes]


def events(*chunks: Any, done: bool = True) -> bytes:
    lines = [f"data: {json.dumps(c)}\n\n" for c in chunks]
    return "".join([*lines, "data: [DONE]\n\n" if done else ""]).encode()


def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"delta": delta, "finish_reason": finish}]}


def good(text: str = "Hello", finish: str = "stop") -> Said:
    return 200, {}, events(chunk(content=text), chunk(finish), {"choices": [], "usage": USAGE})


def whole(said: bytes) -> bytes:
    """Events of a stream as the one answer that a server gives who is not asked for a stream; anything else as it is."""
    lines = [line.removeprefix("data: ") for line in said.decode(errors="replace").split("\n\n") if line]
    if not lines or lines[-1] != "[DONE]":
        return said
    try:
        chunks = [json.loads(line) for line in lines[:-1]]
        choices = [c["choices"][0] for c in chunks if c.get("choices")]
    except (ValueError, AttributeError, KeyError):
        return said
    text = "".join(c["delta"].get("content") or "" for c in choices if c.get("delta"))
    last = next((c["finish_reason"] for c in reversed(choices) if c.get("finish_reason")), None)
    usage = next((c["usage"] for c in chunks if c.get("usage")), None)
    logprobs = [token for c in choices for token in (c.get("logprobs") or {}).get("content") or []]
    told = {"content": logprobs} if logprobs else None
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": last, "logprobs": told}
    return json.dumps({"choices": [choice], "usage": usage}).encode()


class Server(ThreadingHTTPServer):
    """Answers the i-th request by `says(i, body)`; a script's last line stands for all that follow."""

    daemon_threads = True
    request_queue_size = 128
    says: Callable[[int, dict[str, Any]], Said]
    asked: list[dict[str, Any]]
    lock: threading.Lock
    drip_s = 0.0
    wait_s = 0.0
    at_once = 0
    most_at_once = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def script(self, *said: Said) -> None:
        self.says = lambda i, body: said[min(i, len(said) - 1)]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.asked.append(body | {"key": self.headers.get("Authorization"), "path": self.path})
            status, headers, answer = server.says(len(server.asked) - 1, body)
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        time.sleep(server.wait_s)
        with server.lock:
            server.at_once -= 1
        try:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            answer = answer if body.get("stream") else whole(answer)
            for byte in [bytes([b]) for b in answer] if server.drip_s else [answer]:
                self.wfile.write(byte)
                time.sleep(server.drip_s)
        except OSError:
            pass  # the client has hung up

    def log_message(self, format: str, *args: Any) -> None:
        pass


def start() -> Server:
    made = Server(("127.0.0.1", 0), Handler)
    made.asked, made.lock = [], threading.Lock()
    made.script(good())
    threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
    return made


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(client, "BACKOFF_S", 0.001)
    monkeypatch.setenv("CANARY_KEY", KEY)
    made = start()
    yield made
    made.shutdown()
    made.server_close()

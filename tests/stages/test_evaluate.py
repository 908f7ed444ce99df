"""Answers and speed over real HTTP, against a small OpenAI-like server of the test's own."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from raystill import artifacts, recipe
from raystill.artifacts import Manifest, Outcome, Table
from raystill.asking import choose
from raystill.context import Context
from raystill.errors import DataError, Interrupted, StageError
from raystill.records import Answer, Message, Prompt
from raystill.stages import evaluate

Say = Callable[[dict[str, Any]], str | int]
"""From a request's body to the answer's text, or to an HTTP error status."""


class Quiet:
    """A progress view that shows nothing."""

    def start(self, stage: str, total: int | None, unit: str) -> None: ...

    def advance(self, done: int = 1, **scalars: float) -> None: ...

    def say(self, text: str) -> None: ...


@dataclass
class Server:
    """A served model: what it was asked, and how many requests it had in flight at most."""

    say: Say
    base_url: str = ""
    key: str | None = "k-1"
    asked: list[dict[str, Any]] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def stats(self) -> dict[str, dict[str, int]]:
        return {"student": {"weights_bytes": 1000, "peak_memory_bytes": 3000}}


class Http(ThreadingHTTPServer):
    """Clients that hang up are part of some tests."""

    def handle_error(self, request: Any, client_address: Any) -> None: ...


def handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with server.lock:
                server.asked.append(body | {"authorization": self.headers["Authorization"]})
                server.in_flight += 1
                server.most_in_flight = max(server.most_in_flight, server.in_flight)
            text = server.say(body)
            with server.lock:
                server.in_flight -= 1
            if isinstance(text, int):
                self.reply(text, "application/json", json.dumps({"error": {"message": "no"}}))
            elif body.get("stream"):
                self.reply(200, "text/event-stream", "".join(f"data: {event}\n\n" for event in stream(text)))
            else:
                self.reply(200, "application/json", whole(text))

        def reply(self, status: int, kind: str, text: str) -> None:
            data = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None: ...

    return Handler


def usage(text: str) -> dict[str, int]:
    return {"prompt_tokens": 5, "completion_tokens": len(text.split()), "total_tokens": 5 + len(text.split())}


def stream(text: str) -> Iterator[str]:
    for word in text.split(" "):
        yield json.dumps({"choices": [{"index": 0, "delta": {"content": f"{word} "}, "finish_reason": None}]})
    yield json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    yield json.dumps({"choices": [], "usage": usage(text)})
    yield "[DONE]"


def whole(text: str) -> str:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps({"choices": [choice], "usage": usage(text)})


@pytest.fixture
def serve() -> Iterator[Callable[[Say], Server]]:
    started: list[ThreadingHTTPServer] = []

    def start(say: Say) -> Server:
        server = Server(say)
        http = Http(("127.0.0.1", 0), handler(server))
        started.append(http)
        server.base_url = f"http://127.0.0.1:{http.server_address[1]}/v1"
        threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
        return server

    yield start
    for http in started:
        http.shutdown()
        http.server_close()


def prompts(folder: Path, n: int, split: str = "test") -> Table:
    rows = [Prompt(f"{i:03}", None, [Message("user", f"say {i}")], None, "t", "f", split, None, "{}") for i in range(n)]
    files = [
        artifacts.write_part(str(folder), split, Prompt, part) for part in (rows[n // 2 :], rows[: n // 2]) if part
    ]
    return Table(str(folder), "p", Manifest("prompts", 1, "prepare", 1, "p", {}, {}, files))


def context(folder: Path, max_error_rate: float = 0.05) -> Context:
    return Context(str(folder), recipe.Compute(), Quiet(), max_error_rate, folder)


def rows(folder: Path, outcome: Outcome, row: Any) -> list[Any]:
    return list(Table(str(folder), "a", Manifest("answers", 1, "a", 1, "a", {}, {}, list(outcome.files))).rows(row))


def echo(body: dict[str, Any]) -> str:
    return f"I say {body['messages'][-1]['content']}"


def test_answers_come_from_the_models_own_view_in_order(tmp_path: Path, serve: Callable[[Say], Server]) -> None:
    server = serve(echo)
    config = recipe.Evaluate(max_tokens=7)
    shots = [recipe.Turn(user="u", assistant="a")]
    outcome = evaluate.answer(
        config, "student", "be brief", shots, server, prompts(tmp_path / "p", 20), context(tmp_path / "out")
    )
    answers = rows(tmp_path / "out", outcome, Answer)
    assert [a.id for a in answers] == [f"{i:03}" for i in range(20)]
    assert answers[3].text.strip() == "I say say 3"
    assert {(a.model, a.split, a.finish_reason, a.error, a.output_tokens) for a in answers} == {
        ("student", "test", "stop", None, 4)
    }
    assert all(a.ttft_s == 0 < a.elapsed_s for a in answers), "whole answers have no first token"
    assert outcome.counts["rows"] == 20 and outcome.counts["output_tokens"] == 80
    asked = server.asked[0]
    assert [m["content"] for m in asked["messages"]][:3] == ["be brief", "u", "a"]
    assert (asked["model"], asked["max_tokens"], asked["temperature"]) == ("student", 7, 0.0)
    assert asked["authorization"] == "Bearer k-1"


def test_a_limit_takes_the_same_rows_when_others_are_added(tmp_path: Path) -> None:
    config = recipe.Evaluate(limit=10)
    few = {p.id for p in choose(prompts(tmp_path / "few", 30), config)}
    more = {p.id for p in choose(prompts(tmp_path / "more", 40), config)}
    assert len(few) == len(more) == 10
    assert {i for i in more if i < "030"} <= few


def test_concurrency_is_kept_and_not_exceeded(tmp_path: Path, serve: Callable[[Say], Server]) -> None:
    together = threading.Barrier(3, timeout=10)

    def say(body: dict[str, Any]) -> str:
        together.wait()
        return "yes"

    server = serve(say)
    config = recipe.Evaluate(concurrency=3)
    evaluate.answer(config, "student", None, [], server, prompts(tmp_path / "p", 9), context(tmp_path / "out"))
    assert server.most_in_flight == 3


def test_a_failed_row_is_an_answer_with_its_error(tmp_path: Path, serve: Callable[[Say], Server]) -> None:
    server = serve(lambda body: 400 if body["messages"][-1]["content"] == "say 5" else "fine")
    outcome = evaluate.answer(
        recipe.Evaluate(), "student", None, [], server, prompts(tmp_path / "p", 20), context(tmp_path / "out")
    )
    failed = [a for a in rows(tmp_path / "out", outcome, Answer) if a.error]
    assert [(a.id, a.finish_reason, a.text) for a in failed] == [("005", "error", "")]
    assert sum(outcome.counts["errors"].values()) == 1
    assert "say 5" not in failed[0].error


def test_too_many_failures_stop_the_stage_early(tmp_path: Path, serve: Callable[[Say], Server]) -> None:
    server = serve(lambda body: 400)
    with pytest.raises(StageError, match=r"student failed on .* max_error_rate 0.05"):
        evaluate.answer(
            recipe.Evaluate(), "student", None, [], server, prompts(tmp_path / "p", 200), context(tmp_path / "out")
        )
    assert len(server.asked) < 60
    assert not (tmp_path / "out").exists()


def test_an_empty_split_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"set data.split.test to a share"):
        choose(prompts(tmp_path, 3, "train"), recipe.Evaluate())


def test_ctrl_c_stops_asking(tmp_path: Path, serve: Callable[[Say], Server]) -> None:
    stopped = context(tmp_path / "out")

    def say(body: dict[str, Any]) -> str:
        stopped.stopping.set()
        return "yes"

    server = serve(say)
    with pytest.raises(Interrupted):
        evaluate.answer(recipe.Evaluate(), "student", None, [], server, prompts(tmp_path / "p", 100), stopped)
    assert len(server.asked) <= 24

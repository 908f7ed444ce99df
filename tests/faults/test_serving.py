"""The endpoint under faults: Ray Serve, its proxy, raystill's ingress and servers are real, the engines scripted.

After each fault nothing may be running any more: what nobody reads must not cost.
"""

import asyncio
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import engines
import httpx
import psutil
import pytest
from engines import script

from raystill import session
from raystill.artifacts import Checkpoint
from raystill.context import Context
from raystill.recipe import Compute
from raystill.recipe import Serve as Asked
from raystill.stages import serve
from raystill.view import Lines

pytestmark = pytest.mark.slow
KEY, CANARY = "sk-canary-key-93b1f0", "canary-prompt-5d02"
HEADERS = {"Authorization": f"Bearer {KEY}"}
ONGOING, QUEUED, TIMEOUT_S = 4, 8, 10.0


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[serve.Endpoint]:
    models = {name: Checkpoint(str(tiny_model), name) for name in ("teacher", "student")}
    asked = Asked(max_ongoing=ONGOING, max_queued=QUEUED, timeout_s=TIMEOUT_S)
    with pytest.MonkeyPatch.context() as patch:
        engines.under(patch, "Scripted")
        patch.setenv(serve.KEY, KEY)
        with session.ray_session(Compute()) as ensure:
            ensure()
            context = Context("", Compute(), Lines(io.StringIO()), 0.05, tmp_path_factory.mktemp("scratch"))
            with serve.serve(models, asked, context, port=0) as made:
                yield made


@pytest.fixture(autouse=True)
def nothing_runs_afterwards(endpoint: serve.Endpoint) -> Iterator[None]:
    yield
    for model in ("teacher", "student"):
        assert settled(model) == 0


def engine(model: str = "student") -> dict[str, Any]:
    from raystill.serving.app import server_handle

    told: dict[str, Any] = server_handle(model, serve.APP).record_routing_stats.remote().result(timeout_s=60)
    return told


def settled(model: str = "student", within_s: float = 5.0) -> int:
    """Requests that still run in a model's engine after a while."""
    until = time.monotonic() + within_s
    while (running := engine(model)["running"]) and time.monotonic() < until:
        time.sleep(0.05)
    return int(running)


def asking(content: str = "hello", model: str = "student", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": content}], **more}


def post(endpoint: serve.Endpoint, body: Any, **options: Any) -> httpx.Response:
    given = {"content": body} if isinstance(body, bytes) else {"json": body}
    headers = HEADERS | {"Content-Type": "application/json"}
    return httpx.post(f"{endpoint.base_url}/v1/chat/completions", headers=headers, timeout=30, **given, **options)


def client(endpoint: serve.Endpoint) -> Any:
    from openai import OpenAI

    return OpenAI(base_url=f"{endpoint.base_url}/v1", api_key=KEY, max_retries=0)


def resident(name: str) -> int:
    """Bytes that Ray Serve's processes of this name hold."""
    found = [p for p in psutil.process_iter(["cmdline"]) if name in " ".join(p.info["cmdline"] or [])]
    assert found
    return sum(p.memory_info().rss for p in found)


def in_openais_form(answer: httpx.Response) -> str:
    """The message of an error, which is nothing but its form."""
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "code", "param"} and error["code"] == answer.status_code
    assert "Traceback" not in answer.text and "site-packages" not in answer.text
    return str(error["message"])


def test_a_replica_that_dies_in_a_stream_is_told_and_comes_back(endpoint: serve.Endpoint) -> None:
    from openai import APIError

    others: list[str] = []

    def other() -> None:
        stream = client(endpoint).chat.completions.create(**asking(script(30, 0.05), "teacher", stream=True))
        others.extend(piece.choices[0].finish_reason for piece in stream if piece.choices)

    reading = threading.Thread(target=other)
    reading.start()
    dead, pieces = engine()["pid"], 0
    with pytest.raises(APIError, match="stopped in the middle"):
        for _ in client(endpoint).chat.completions.create(**asking(script(5, 0.05, dies_at=3), stream=True)):
            pieces += 1
    assert pieces == 3
    until = time.monotonic() + 90
    while (answer := post(endpoint, asking())).status_code != 200:
        assert answer.status_code in (408, 503), answer.text
        in_openais_form(answer)
        assert time.monotonic() < until
    assert engine()["pid"] != dead
    reading.join()
    assert others.count("stop") == 1 and len(others) == 31


def test_a_hundred_who_hang_up_leave_nothing(endpoint: serve.Endpoint) -> None:
    async def hang_up(times: int) -> None:
        async with httpx.AsyncClient(headers=HEADERS, timeout=30) as asked:
            for _ in range(times):
                body = asking(script(10_000, 0.01), stream=True)
                async with asked.stream("POST", f"{endpoint.base_url}/v1/chat/completions", json=body) as answer:
                    assert answer.status_code == 200, await answer.aread()
                    await anext(answer.aiter_lines())

    async def together(clients: int, times: int) -> None:
        await asyncio.gather(*(hang_up(times) for _ in range(clients)))

    asyncio.run(together(2, 10))
    assert settled() == 0
    before = resident("ServeReplica:raystill")
    asyncio.run(together(2, 50))
    assert settled() == 0
    grown = resident("ServeReplica:raystill") - before
    print(f"100 disconnects: nothing running, servers grown by {grown / 2**20:.1f} MiB")  # noqa: T201
    assert grown < 20 << 20


def raw(endpoint: serve.Endpoint, text: str) -> socket.socket:
    host, port = endpoint.base_url.removeprefix("http://").split(":")
    made = socket.create_connection((host, int(port)), timeout=30)
    made.sendall(text.encode())
    return made


def head(length: int) -> str:
    lines = ["POST /v1/chat/completions HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer {KEY}"]
    return "\r\n".join([*lines, "Content-Type: application/json", f"Content-Length: {length}", "", ""])


def test_a_slow_reader_keeps_no_engine(endpoint: serve.Endpoint) -> None:
    body = json.dumps(asking(script(2000, 0.0, "x" * 2000), stream=True))
    before = resident("ProxyActor")
    with raw(endpoint, head(len(body)) + body) as reader:
        assert reader.recv(1)
        assert settled() == 0
        started = time.monotonic()
        assert post(endpoint, asking()).status_code == 200
        assert time.monotonic() - started < 2
        for _ in range(3):
            time.sleep(0.3)
            assert reader.recv(1)
        assert resident("ProxyActor") - before < 32 << 20


def test_slow_heads_and_bodies_keep_nobody_waiting(endpoint: serve.Endpoint) -> None:
    held = [raw(endpoint, "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ") for _ in range(100)]
    held += [raw(endpoint, head(1000) + "{") for _ in range(10)]
    started = time.monotonic()
    assert [post(endpoint, asking()).status_code for _ in range(5)] == [200] * 5
    assert time.monotonic() - started < 5
    for each in held:
        each.close()


def test_at_three_times_what_it_can_it_says_so_at_once_and_finishes_what_it_took(endpoint: serve.Endpoint) -> None:
    """4 at once, 0.2 s each: 20 a second. 60 a second come for 6 s, whatever becomes of them (an open loop)."""
    answer_s, seconds = 0.2, 6.0
    capacity = ONGOING / answer_s
    times: dict[int, list[float]] = {}

    async def one(asked: httpx.AsyncClient, at: float) -> httpx.Response:
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        started = time.monotonic()
        answer = await asked.post(f"{endpoint.base_url}/v1/chat/completions", json=asking(script(2, answer_s / 2)))
        times.setdefault(answer.status_code, []).append(time.monotonic() - started)
        return answer

    async def load() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(headers=HEADERS, timeout=30, limits=limits) as asked:
            began, every = time.monotonic() + 0.2, 1 / (3 * capacity)
            return await asyncio.gather(*(one(asked, began + i * every) for i in range(int(seconds * 3 * capacity))))

    answers = asyncio.run(load())
    assert set(times) == {200, 503}
    for answer in answers:
        if answer.status_code == 503:
            assert answer.headers["Retry-After"] == "1"
            assert "queue is full" in in_openais_form(answer)
    accepted, shed = (sorted(times[status]) for status in (200, 503))
    p99_s, shed_p99_s = accepted[int(len(accepted) * 0.99)], shed[int(len(shed) * 0.99)]
    print(  # noqa: T201
        f"{len(answers)} asked at {3 * capacity:.0f}/s of {capacity:.0f}/s: {len(accepted)} answered, median "
        f"{accepted[len(accepted) // 2]:.2f} s, p99 {p99_s:.2f} s; {len(shed)} told to come again, p99 {shed_p99_s:.2f} s"
    )
    assert len(accepted) > 0.7 * seconds * capacity
    queue_s = (QUEUED / ONGOING + 1) * answer_s
    assert p99_s < 2 * queue_s + 1
    assert shed_p99_s < 1


def test_an_answer_over_its_time_ends_and_frees_its_engine(endpoint: serve.Endpoint) -> None:
    whole = post(endpoint, asking(script(10_000, 0.01)))
    assert whole.status_code == 408 and "serve.timeout_s" in in_openais_form(whole)
    assert settled(within_s=2) == 0
    streamed = post(endpoint, asking(script(10_000, 0.01), stream=True)).text.strip().split("\n\n")
    assert json.loads(streamed[-1].removeprefix("data: "))["error"]["code"] == 408
    assert len(streamed) > 100
    assert settled(within_s=2) == 0


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b'{"messages": "' + b"x" * (2 << 20) + b'"}', 413, "larger than"),
        (b"[" * 50_000 + b"]" * 50_000, 400, "JSON"),
        (b"\xff\xfe\x00", 400, "not JSON"),
        (b"", 400, "not JSON"),
        (asking(n=10_000), 400, "'n'"),
        (asking(max_tokens=10**9), 400, "'max_tokens'"),
        (asking(logprobs=True, top_logprobs=10**6), 400, "'top_logprobs'"),
        (asking(stop=["a"] * 5000), 400, "'stop'"),
        (asking(structured_outputs={"regex": "(a{1,9999}){1,9999}"}), 400, "'structured_outputs'"),
        (asking(chat_template="{% for i in range(10**9) %}{% endfor %}"), 400, "'chat_template'"),
        (asking(model="none"), 404, "model"),
        (asking(model="../../etc/passwd"), 404, "model"),
        (asking(model="student\x00"), 404, "model"),
        ({"messages": [{"role": "user", "content": "hi"}]}, 400, "Model parameter is required"),
        (asking(model=7), 400, "string"),
        (asking(temperature="warm"), 400, "temperature"),
        ({"model": "student"}, 400, "messages"),
        ({"model": "student", "messages": [{"role": "user", "content": {"a": 1}}]}, 400, "content"),
        ({"model": "student", "messages": "hello"}, 400, "messages"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str | int) else "body",
)
def test_a_hostile_or_wrong_body_is_the_callers_mistake(
    endpoint: serve.Endpoint, body: Any, status: int, says: str
) -> None:
    answer = post(endpoint, body)
    assert (answer.status_code, says in in_openais_form(answer)) == (status, True), answer.text


@pytest.mark.parametrize("path", ["/v1/models/none", "/v1/models/..%2F..%2Fetc%2Fpasswd", "/v1/nothing", "/v1/score"])
def test_what_is_not_there_is_a_404(endpoint: serve.Endpoint, path: str) -> None:
    answer = httpx.get(f"{endpoint.base_url}{path}", headers=HEADERS)
    assert answer.status_code == 404
    in_openais_form(answer)


def test_nothing_that_a_request_names_is_fetched(endpoint: serve.Endpoint) -> None:
    with socket.socket() as named:
        named.bind(("127.0.0.1", 0))
        named.listen()
        named.settimeout(0.5)
        image = {"type": "image_url", "image_url": {"url": f"http://127.0.0.1:{named.getsockname()[1]}/x.png"}}
        body = {"model": "student", "messages": [{"role": "user", "content": [image]}]}
        assert post(endpoint, body).status_code == 400
        with pytest.raises(TimeoutError):
            named.accept()


def test_without_its_key_nothing_but_its_health_is_told(endpoint: serve.Endpoint) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        assert httpx.post(f"{endpoint.base_url}/v1/chat/completions", json=asking(), headers=headers).status_code == 401
        assert httpx.get(f"{endpoint.base_url}/v1/models", headers=headers).status_code == 401
    for header in ("X-Request-Timeout-Seconds", "X-Request-Disconnect-Disabled"):
        answer = httpx.get(f"{endpoint.base_url}/v1/models", headers=HEADERS | {header: "?1"})
        assert answer.status_code == 400
    assert httpx.get(f"{endpoint.base_url}/health").json() == {"status": "ok"}


def test_the_port_is_this_machines_alone_and_no_dashboard_is_open(endpoint: serve.Endpoint) -> None:
    port = int(endpoint.base_url.rpartition(":")[2])
    listening = {
        c.laddr.ip: c.laddr.port for c in psutil.net_connections("tcp") if c.laddr.port == port and not c.raddr
    }
    assert set(listening) == {"127.0.0.1"}
    for closed in (8265, 10001):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", closed)) != 0


def test_neither_key_nor_prompt_is_in_a_log(endpoint: serve.Endpoint) -> None:
    assert post(endpoint, asking(CANARY)).status_code == 200
    assert post(endpoint, asking(CANARY, temperature="warm")).status_code == 400
    wrong = httpx.post(
        f"{endpoint.base_url}/v1/chat/completions", json=asking(CANARY), headers={"Authorization": f"Bearer {CANARY}"}
    )
    assert wrong.status_code == 401
    from ray._private.worker import global_worker

    logs = [p for p in Path(global_worker.node.get_logs_dir_path()).rglob("*") if p.is_file()]
    assert logs
    time.sleep(1)  # log files are written in the background
    telling = [p.name for p in logs if any(s.encode() in p.read_bytes() for s in (KEY, CANARY))]
    assert telling == []

"""serve: two real engines behind the real endpoint, asked as a user would, and nothing left afterwards."""

import asyncio
import dataclasses
import io
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import engines
import httpx
import psutil
import pytest
from dashboards import ENDPOINT, expressions, names
from prometheus_client.parser import text_string_to_metric_families

from raystill import artifacts, session
from raystill.artifacts import Checkpoint, Manifest, Table
from raystill.context import Context
from raystill.errors import Interrupted, RecipeError, ResourceError, StageError
from raystill.recipe import Compute, Serve
from raystill.records import Load
from raystill.stages import serve
from raystill.view import Lines

pytestmark = pytest.mark.slow
HELLO = [{"role": "user", "content": "hello"}]
ASK = {"model": "student", "messages": HELLO, "max_tokens": 8}
MOST = 100
EXPORTED_S = 90.0
"""Longest wait for metrics, which Ray hands on every ten seconds."""
HEADERS = {"Authorization": "Bearer test-key"}


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Context]:
    with pytest.MonkeyPatch.context() as patch, session.ray_session(Compute()) as ensure:
        engines.under(patch, "CountedVLLM")
        ensure()
        yield Context("", Compute(), Lines(io.StringIO()), 0.05, tmp_path_factory.mktemp("scratch"))


@pytest.fixture(scope="module")
def endpoint(context: Context, tiny_model: Path) -> Iterator[serve.Endpoint]:
    """A student, and a teacher of the same weights whose template takes an argument, with a playground."""
    os.environ[serve.KEY] = "test-key"
    keys = context.scratch / "keys.yaml"
    keys.write_text("alice: {key: alice-0123456789ab, requests_per_minute: 2}\n")
    asked = Serve(
        max_tokens=MOST,
        keys_file=str(keys),
        allow_origins=["https://app.example.com"],
        engine={"enable_auto_tool_choice": True, "tool_call_parser": "hermes"},
    )
    thinking = Path(shutil.copytree(tiny_model, context.scratch / "thinking"))
    template = thinking / "chat_template.jinja"
    template.write_text(template.read_text() + "{% if enable_thinking %}Think step by step.{% endif %}")
    models = {"teacher": Checkpoint(str(thinking), "teacher"), "student": Checkpoint(str(tiny_model), "student")}
    own = {"teacher": {"default_chat_template_kwargs": {"enable_thinking": True}}}
    load = Load("student", "here", 8, 16, 0, 1.0, 0.1, 0.2, 0.01, 0.3, 0.4, 100.0, 5.0, 1, 1)
    url = str(context.scratch / "load")
    manifest = Manifest("load", 1, "load", 1, "f" * 12, {}, {}, [artifacts.write_part(url, "load", Load, [load])])
    measured = {"load/student": artifacts.commit(Table, url, manifest).url}
    page = {
        "votes": str(context.scratch / "votes"),
        "split": "test",
        "sampling": {},
        "views": {},
        "machine_hour": 3.6,
        "currency": "USD",
    }
    with serve.serve(models, asked, context, own=own, port=0, page=page, made=measured) as made:
        yield made
    del os.environ[serve.KEY]
    engines = [p for p in psutil.process_iter(["cmdline"]) if "ServeReplica" in " ".join(p.info["cmdline"] or [])]
    assert not engines


@pytest.fixture
def client(endpoint: serve.Endpoint) -> Any:
    from openai import OpenAI

    return OpenAI(base_url=f"{endpoint.base_url}/v1", api_key="test-key", max_retries=0)


def test_openais_client_works_unchanged(client: Any) -> None:
    assert {m.id for m in client.models.list()} == {"teacher", "student"}
    assert client.models.retrieve("student").id == "student"
    whole = client.chat.completions.create(**ASK)
    assert whole.usage.completion_tokens <= 8
    plain = client.completions.create(model="student", prompt="hello", max_tokens=8, temperature=0)
    assert plain.usage.completion_tokens <= 8 and plain.choices[0].text


def test_a_stream_tells_its_usage_to_who_asks(client: Any) -> None:
    whole = client.chat.completions.create(**ASK, temperature=0)
    pieces = list(client.chat.completions.create(**ASK, temperature=0, stream=True))
    assert all(piece.usage is None for piece in pieces)
    assert "".join(p.choices[0].delta.content or "" for p in pieces) == whole.choices[0].message.content
    told = list(
        client.chat.completions.create(**ASK, temperature=0, stream=True, stream_options={"include_usage": True})
    )
    assert told[-1].usage == whole.usage and not told[-1].choices


def test_what_the_engine_can_do_passes_through(client: Any) -> None:
    def ask(**more: Any) -> Any:
        return client.chat.completions.create(**(ASK | more)).choices

    several, again = (ask(n=3, seed=7, temperature=1) for _ in range(2))
    assert [c.message.content for c in several] == [c.message.content for c in again]
    assert len({c.message.content for c in several}) == 3
    (greedy,) = ask(temperature=0, logprobs=True, top_logprobs=3)
    assert [len(token.top_logprobs) for token in greedy.logprobs.content] == [3] * 8
    text = greedy.message.content
    (stopped,) = ask(temperature=0, stop=[text[3]])
    assert stopped.finish_reason == "stop" and stopped.message.content == text[: text.index(text[3])]


def test_answers_come_in_the_form_that_is_asked_for(client: Any) -> None:
    choice = {"type": "string", "enum": ["yes", "no"]}
    schema = {"type": "json_schema", "json_schema": {"name": "choice", "schema": choice}}
    whole = client.chat.completions.create(**ASK | {"max_tokens": 32}, response_format=schema)
    assert json.loads(whole.choices[0].message.content) in ("yes", "no")
    parameters = {"type": "object", "properties": {"sure": choice}, "required": ["sure"], "additionalProperties": False}
    tool = {"type": "function", "function": {"name": "decide", "parameters": parameters}}
    named = {"type": "function", "function": {"name": "decide"}}
    asked = {"max_tokens": MOST, "tools": [tool], "tool_choice": named, "temperature": 1, "seed": 1}
    (call,) = client.chat.completions.create(**ASK | asked).choices[0].message.tool_calls
    assert call.function.name == "decide"
    assert json.loads(call.function.arguments)["sure"] in ("yes", "no")


def test_an_answer_without_a_length_has_the_endpoints(endpoint: serve.Endpoint) -> None:
    body = {"model": "student", "messages": HELLO, "ignore_eos": True}
    answer = httpx.post(f"{endpoint.base_url}/v1/chat/completions", json=body, headers=HEADERS, timeout=60).json()
    assert answer["usage"]["completion_tokens"] == MOST


def test_who_hangs_up_frees_the_engine(endpoint: serve.Endpoint) -> None:
    from raystill.serving.app import server_handle

    def running() -> int:
        told = server_handle("student", serve.APP).record_routing_stats.remote().result()
        return int(told["running"])

    async def hang_up() -> int:
        body = {"model": "student", "messages": HELLO, "ignore_eos": True, "n": 8, "stream": True}
        url = f"{endpoint.base_url}/v1/chat/completions"
        async with (
            httpx.AsyncClient(headers=HEADERS, timeout=60) as asked,
            asked.stream("POST", url, json=body) as answer,
        ):
            await anext(answer.aiter_lines())
            return await asyncio.to_thread(running)

    assert max([asyncio.run(hang_up()) for _ in range(10)]) > 0  # some may be answered before one can look
    until = time.monotonic() + 5
    while running() and time.monotonic() < until:
        time.sleep(0.05)
    assert running() == 0


def test_each_key_has_its_own_minute(endpoint: serve.Endpoint, client: Any) -> None:
    from openai import RateLimitError

    alice = client.with_options(api_key="alice-0123456789ab")
    assert [len(alice.models.list().data) for _ in range(2)] == [2, 2]
    with pytest.raises(RateLimitError, match="minute is used up") as raised:
        alice.models.list()
    assert 20 < int(raised.value.response.headers["retry-after"]) <= 30
    assert client.models.list().data


def test_pages_that_the_recipe_names_may_ask(endpoint: serve.Endpoint) -> None:
    def preflight(origin: str) -> httpx.Response:
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        asked["Access-Control-Request-Headers"] = "authorization, content-type"
        return httpx.options(f"{endpoint.base_url}/v1/chat/completions", headers=asked)

    allowed = preflight("https://app.example.com")
    assert allowed.headers["access-control-allow-origin"] == "https://app.example.com"
    assert "access-control-allow-credentials" not in allowed.headers
    refused = preflight("https://evil.example")
    assert refused.status_code == 400 and "access-control-allow-origin" not in refused.headers


def test_a_served_teacher_sees_what_its_template_arguments_say(endpoint: serve.Endpoint) -> None:
    asked = {
        name: httpx.post(f"{endpoint.base_url}/v1/chat/completions", json=ASK | {"model": name}, headers=HEADERS).json()
        for name in ("teacher", "student")
    }
    seen = {name: answer["usage"]["prompt_tokens"] for name, answer in asked.items()}
    assert seen["teacher"] > seen["student"] + 5


def test_without_its_key_nobody_is_answered(endpoint: serve.Endpoint) -> None:
    assert httpx.post(f"{endpoint.base_url}/v1/chat/completions", json=ASK).status_code == 401
    assert httpx.get(f"{endpoint.base_url}/health").status_code == 200


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/tokenize", "/detokenize"])
def test_what_nobody_needs_is_off(endpoint: serve.Endpoint, path: str) -> None:
    assert httpx.get(f"{endpoint.base_url}{path}", headers=HEADERS).status_code == 404


def test_an_unknown_model_is_a_404_in_openais_form(endpoint: serve.Endpoint) -> None:
    answer = httpx.post(f"{endpoint.base_url}/v1/chat/completions", json=ASK | {"model": "none"}, headers=HEADERS)
    assert answer.status_code == 404
    assert "error" in answer.json()
    assert "Traceback" not in answer.text


def test_the_printed_lines_work_when_pasted(endpoint: serve.Endpoint) -> None:
    _, curl, python = serve.usage(endpoint, "student").splitlines()
    answered = subprocess.run(["bash", "-c", curl], capture_output=True, text=True, check=True)
    assert '"finish_reason"' in answered.stdout
    command = shlex.split(python)
    assert command[0] == "python"
    subprocess.run([sys.executable, *command[1:]], capture_output=True, check=True)


def test_memory_and_weights_are_told(endpoint: serve.Endpoint) -> None:
    stats = endpoint.stats()["student"]
    assert stats["weights_bytes"] > 100_000
    assert stats["peak_memory_bytes"] > 100 << 20


def test_the_playground_is_open_and_what_it_asks_is_not(endpoint: serve.Endpoint) -> None:
    page = httpx.get(f"{endpoint.base_url}/")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert httpx.get(f"{endpoint.base_url}/v1/playground").status_code == 401
    told = httpx.get(f"{endpoint.base_url}/v1/playground", headers=HEADERS).json()
    assert told["prices"] == {"student": pytest.approx(1e-5)}
    vote = {"messages": [], "answers": {"teacher": "a", "student": "b"}, "preferred": "student"}
    assert httpx.post(f"{endpoint.base_url}/v1/votes", json=vote, headers=HEADERS).json()["votes"] == 1


def test_everything_that_the_dashboard_shows_is_exposed(endpoint: serve.Endpoint) -> None:
    assert httpx.get(f"{endpoint.base_url}/metrics").status_code == 401
    asked = set().union(*(names(expression) for expression in expressions(ENDPOINT)))
    until = time.monotonic() + EXPORTED_S
    while missing := asked - exposed(endpoint):
        assert time.monotonic() < until, missing
        time.sleep(1)


def exposed(endpoint: serve.Endpoint) -> set[str]:
    """The names of all samples, after one more answer of each model."""
    for model in endpoint.models:
        httpx.post(f"{endpoint.base_url}/v1/chat/completions", json=ASK | {"model": model}, headers=HEADERS)
    page = httpx.get(f"{endpoint.base_url}/metrics", headers=HEADERS).text
    return {sample.name for family in text_string_to_metric_families(page) for sample in family.samples}


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="no prometheus on the PATH: apt-get install prometheus")
def test_a_real_prometheus_answers_every_expression_of_the_dashboard(endpoint: serve.Endpoint, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        at = f"127.0.0.1:{free.getsockname()[1]}"
    job = {
        "job_name": "raystill",
        "authorization": {"credentials": "test-key"},
        "static_configs": [{"targets": [endpoint.base_url.removeprefix("http://")]}],
    }
    config = tmp_path / "prometheus.yaml"
    config.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": [job]}))
    command = [f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}", f"--web.listen-address={at}"]
    with subprocess.Popen(["prometheus", *command], stderr=subprocess.DEVNULL) as process:
        try:
            left, until = set(expressions(ENDPOINT)), time.monotonic() + EXPORTED_S
            while left := {expression for expression in left if not answered(at, expression)}:
                assert time.monotonic() < until, left
                exposed(endpoint)
                time.sleep(1)
        finally:
            process.terminate()


def answered(prometheus: str, expression: str) -> bool:
    """Whether Prometheus has values for an expression; one that it cannot read fails."""
    try:
        answer = httpx.get(f"http://{prometheus}/api/v1/query", params={"query": expression})
    except httpx.TransportError:  # not up yet
        return False
    assert answer.status_code in (200, 503), answer.text
    return answer.status_code == 200 and bool(answer.json()["data"]["result"])


def test_a_taken_port_is_named(context: Context, tiny_model: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(ResourceError, match=f":{port} cannot be bound"),
            serve.serve({"student": Checkpoint(str(tiny_model), "s")}, Serve(port=port), context),
        ):
            pass


def test_an_open_address_without_key_is_refused(
    context: Context, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(serve.KEY, raising=False)
    with (
        pytest.raises(RecipeError, match=f"export {serve.KEY}"),
        serve.serve({"student": Checkpoint(str(tiny_model), "s")}, Serve(host="0.0.0.0"), context),
    ):
        pass


def test_a_start_that_takes_too_long_or_is_stopped_leaves_nothing(context: Context, tiny_model: Path) -> None:
    models = {"student": Checkpoint(str(tiny_model), "student")}
    with (
        pytest.raises(StageError, match="start_timeout_s"),
        serve.serve(models, Serve(start_timeout_s=0.5), context, port=0),
    ):
        raise AssertionError("served in half a second")
    stopped = dataclasses.replace(context, stopping=threading.Event())
    stopped.stopping.set()
    with pytest.raises(Interrupted), serve.serve(models, Serve(), stopped, port=0):
        raise AssertionError("served although stopped")

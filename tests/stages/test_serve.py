"""serve: two real engines behind the real endpoint, asked as a user would, and nothing left afterwards."""

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
BEARER = {"Authorization": "Bearer test-key"}
EXPORTED_S = 90.0
"""Longest wait for metrics, which Ray hands on every ten seconds."""
ASK = {"model": "student", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Context]:
    with session.ray_session(Compute()) as ensure:
        ensure()
        yield Context("", Compute(), Lines(io.StringIO()), 0.05, tmp_path_factory.mktemp("scratch"))


@pytest.fixture(scope="module")
def endpoint(context: Context, tiny_model: Path) -> Iterator[serve.Endpoint]:
    """A student, and a teacher of the same weights whose template takes an argument, with a playground."""
    os.environ[serve.KEY] = "test-key"
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
        "views": {},
        "machine_hour": 3.6,
        "currency": "USD",
    }
    with serve.serve(models, Serve(), context, own=own, port=0, page=page, made=measured) as made:
        yield made
    del os.environ[serve.KEY]
    engines = [p for p in psutil.process_iter(["cmdline"]) if "ServeReplica" in " ".join(p.info["cmdline"] or [])]
    assert not engines


def test_openais_client_works_unchanged(endpoint: serve.Endpoint) -> None:
    from openai import OpenAI

    client = OpenAI(base_url=f"{endpoint.base_url}/v1", api_key="test-key")
    assert {m.id for m in client.models.list()} == {"teacher", "student"}
    whole = client.chat.completions.create(**ASK)
    assert whole.usage.completion_tokens <= 8
    pieces = list(client.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True}))
    assert pieces[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_a_served_teacher_sees_what_its_template_arguments_say(endpoint: serve.Endpoint) -> None:
    asked = {
        name: httpx.post(f"{endpoint.base_url}/v1/chat/completions", json=ASK | {"model": name}, headers=BEARER).json()
        for name in ("teacher", "student")
    }
    seen = {name: answer["usage"]["prompt_tokens"] for name, answer in asked.items()}
    assert seen["teacher"] > seen["student"] + 5


def test_without_its_key_nobody_is_answered(endpoint: serve.Endpoint) -> None:
    assert httpx.post(f"{endpoint.base_url}/v1/chat/completions", json=ASK).status_code == 401
    assert httpx.get(f"{endpoint.base_url}/health").status_code == 200


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/tokenize", "/detokenize"])
def test_what_nobody_needs_is_off(endpoint: serve.Endpoint, path: str) -> None:
    assert httpx.get(f"{endpoint.base_url}{path}", headers=BEARER).status_code == 404


def test_an_unknown_model_is_a_404_in_openais_form(endpoint: serve.Endpoint) -> None:
    answer = httpx.post(f"{endpoint.base_url}/v1/chat/completions", json=ASK | {"model": "none"}, headers=BEARER)
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
    told = httpx.get(f"{endpoint.base_url}/v1/playground", headers=BEARER).json()
    assert told["prices"] == {"student": pytest.approx(1e-5)}
    vote = {"messages": [], "answers": {"teacher": "a", "student": "b"}, "preferred": "student"}
    assert httpx.post(f"{endpoint.base_url}/v1/votes", json=vote, headers=BEARER).json()["votes"] == 1


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
        httpx.post(f"{endpoint.base_url}/v1/chat/completions", json=ASK | {"model": model}, headers=BEARER)
    page = httpx.get(f"{endpoint.base_url}/metrics", headers=BEARER).text
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

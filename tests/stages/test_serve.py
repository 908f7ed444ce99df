"""serve: two real engines behind the real endpoint, asked as a user would, and nothing left afterwards."""

import dataclasses
import io
import os
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from raystill import session
from raystill.artifacts import Checkpoint
from raystill.context import Context
from raystill.errors import Interrupted, RecipeError, ResourceError, StageError
from raystill.recipe import Compute, Serve
from raystill.stages import serve
from raystill.view import Lines

pytestmark = pytest.mark.slow
ASK = {"model": "student", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Context]:
    with session.ray_session(Compute()) as ensure:
        ensure()
        yield Context("", Compute(), Lines(io.StringIO()), 0.05, tmp_path_factory.mktemp("scratch"))


@pytest.fixture(scope="module")
def endpoint(context: Context, tiny_model: Path) -> Iterator[serve.Endpoint]:
    """A student, and a teacher of the same weights whose template takes an argument."""
    os.environ[serve.KEY] = "test-key"
    thinking = Path(shutil.copytree(tiny_model, context.scratch / "thinking"))
    template = thinking / "chat_template.jinja"
    template.write_text(template.read_text() + "{% if enable_thinking %}Think step by step.{% endif %}")
    models = {"teacher": Checkpoint(str(thinking), "teacher"), "student": Checkpoint(str(tiny_model), "student")}
    own = {"teacher": {"default_chat_template_kwargs": {"enable_thinking": True}}}
    with serve.serve(models, Serve(), context, own=own, port=0) as made:
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
    headers = {"Authorization": "Bearer test-key"}
    asked = {
        name: httpx.post(f"{endpoint.base_url}/v1/chat/completions", json=ASK | {"model": name}, headers=headers).json()
        for name in ("teacher", "student")
    }
    seen = {name: answer["usage"]["prompt_tokens"] for name, answer in asked.items()}
    assert seen["teacher"] > seen["student"] + 5


def test_without_its_key_nobody_is_answered(endpoint: serve.Endpoint) -> None:
    assert httpx.post(f"{endpoint.base_url}/v1/chat/completions", json=ASK).status_code == 401
    assert httpx.get(f"{endpoint.base_url}/health").status_code == 200


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/tokenize", "/detokenize"])
def test_what_nobody_needs_is_off(endpoint: serve.Endpoint, path: str) -> None:
    assert httpx.get(f"{endpoint.base_url}{path}", headers={"Authorization": "Bearer test-key"}).status_code == 404


def test_an_unknown_model_is_a_404_in_openais_form(endpoint: serve.Endpoint) -> None:
    headers = {"Authorization": "Bearer test-key"}
    answer = httpx.post(f"{endpoint.base_url}/v1/chat/completions", json=ASK | {"model": "none"}, headers=headers)
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

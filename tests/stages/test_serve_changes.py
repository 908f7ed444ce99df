"""An endpoint that changes while it is asked: a model that sleeps and wakes, and a student that gives way to the next.

Ray Serve and raystill's ingress are real, the engines scripted. The tests share one endpoint, in their order.
"""

import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import engines
import httpx
import pytest
from callers import calling, servers, until
from conftest import build_tiny_model
from engines import script

from raystill import session
from raystill.artifacts import Checkpoint
from raystill.context import Context
from raystill.errors import ResourceError
from raystill.recipe import Compute, Serve
from raystill.stages import serve
from raystill.view import Lines

pytestmark = pytest.mark.slow
SLEEPS = Serve.model_validate({"replicas": {"teacher": {"min_replicas": 0, "downscale_delay_s": 2}}})


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Context]:
    with pytest.MonkeyPatch.context() as patch, session.ray_session(Compute()) as ensure:
        engines.under(patch, "Scripted")
        ensure()
        yield Context("", Compute(), Lines(io.StringIO()), 0.05, tmp_path_factory.mktemp("scratch"))


@pytest.fixture(scope="module")
def models(tiny_model: Path) -> dict[str, Checkpoint]:
    return {name: Checkpoint(str(tiny_model), name) for name in ("teacher", "student")}


@pytest.fixture(scope="module")
def endpoint(models: dict[str, Checkpoint], context: Context) -> Iterator[serve.Endpoint]:
    with serve.serve(models, SLEEPS, context, port=0, finish_s=60) as made:
        yield made


def asking(model: str, content: str = "hello", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": content}], **more}


def ask(endpoint: serve.Endpoint, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{endpoint.base_url}/v1/chat/completions", json=body, timeout=60)


def state(endpoint: serve.Endpoint, model: str) -> str:
    return str(httpx.get(f"{endpoint.base_url}/v1/models/{model}").json()["metadata"]["state"])


def test_who_asks_a_sleeping_model_is_told_at_once_and_wakes_it(endpoint: serve.Endpoint) -> None:
    assert not servers("teacher")
    assert (state(endpoint, "teacher"), state(endpoint, "student")) == ("asleep", "ready")
    began = time.monotonic()
    first = ask(endpoint, asking("teacher"))
    assert time.monotonic() - began < 3
    assert (first.status_code, first.headers["Retry-After"]) == (503, "20")
    assert first.json()["error"]["message"].startswith("warming up: teacher sleeps")
    assert state(endpoint, "teacher") == "warming up"
    assert ask(endpoint, asking("student")).status_code == 200
    until(lambda: ask(endpoint, asking("teacher")).status_code == 200, 120)
    assert state(endpoint, "teacher") == "ready"


def test_a_student_gives_way_to_the_next_without_one_failed_request(
    endpoint: serve.Endpoint, models: dict[str, Checkpoint], context: Context
) -> None:
    before = servers("student")
    long: list[httpx.Response] = []
    story = asking("student", script(40, 0.25), stream=True)
    reader = threading.Thread(target=lambda: long.append(ask(endpoint, story)))
    with calling(endpoint.base_url, asking("student", script(3, 0.02))) as callers:
        reader.start()
        second = Checkpoint(str(build_tiny_model(context.scratch / "second", layers=1)), "second")
        serve.replace(endpoint, {**models, "student": second}, SLEEPS, context)
        callers.heard_more()
    reader.join()
    assert callers.failed == []
    assert long[0].text.count('"content": "a "') == 40
    assert "[DONE]" in long[0].text
    until(lambda: not before & servers("student"), 60)
    assert servers("student")


def test_without_room_for_both_the_endpoint_stays_as_it_is(
    endpoint: serve.Endpoint, models: dict[str, Checkpoint], context: Context, tmp_path: Path
) -> None:
    many = Serve.model_validate({"replicas": {"student": 900}})
    with pytest.raises(ResourceError, match=r"to change student without a gap 900 CPUs more are needed, and \d"):
        serve.replace(endpoint, {"student": Checkpoint(str(tmp_path), "third")}, many, context)
    assert ask(endpoint, asking("student")).status_code == 200


def test_a_woken_model_is_let_go_when_nobody_asks_and_says_so_again(endpoint: serve.Endpoint) -> None:
    until(lambda: not servers("teacher"), 120)
    refused = ask(endpoint, asking("teacher"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, 503)

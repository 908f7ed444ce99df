"""An endpoint that changes while it is asked: a model that sleeps and wakes, and a student that gives way to the next.

One endpoint for all of it, in the order of the tests: an engine takes its time to start.
"""

import contextlib
import io
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from conftest import build_tiny_model

from raystill import session
from raystill.artifacts import Checkpoint
from raystill.context import Context
from raystill.errors import ResourceError, StageError
from raystill.recipe import Compute, Serve
from raystill.stages import serve
from raystill.view import Lines

pytestmark = pytest.mark.slow
SLEEPS = Serve.model_validate({"replicas": {"teacher": {"min_replicas": 0, "downscale_delay_s": 4}}})
ASK = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 12, "temperature": 0, "seed": 1}
AT_ONCE = 4


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Context]:
    with session.ray_session(Compute()) as ensure:
        ensure()
        yield Context("", Compute(), Lines(io.StringIO()), 0.05, tmp_path_factory.mktemp("scratch"))


@pytest.fixture(scope="module")
def models(tiny_model: Path, context: Context) -> dict[str, Checkpoint]:
    """A teacher, and a student that is to be replaced."""
    return {"teacher": Checkpoint(str(tiny_model), "teacher"), "student": Checkpoint(str(tiny_model), "first")}


@pytest.fixture(scope="module")
def endpoint(models: dict[str, Checkpoint], context: Context) -> Iterator[serve.Endpoint]:
    with serve.serve(models, SLEEPS, context, port=0, finish_s=60) as made:
        yield made


def ask(endpoint: serve.Endpoint, model: str, **more: Any) -> httpx.Response:
    return httpx.post(f"{endpoint.base_url}/v1/chat/completions", json={**ASK, "model": model, **more}, timeout=60)


def state(endpoint: serve.Endpoint, model: str) -> str:
    return str(httpx.get(f"{endpoint.base_url}/v1/models/{model}").json()["metadata"]["state"])


def until(true: Callable[[], bool], timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.2)


def servers(model: str) -> set[int]:
    """Processes that host a model."""
    named = f"MeasuredServer:{model}"
    return {p.pid for p in psutil.process_iter(["cmdline"]) if named in " ".join(p.info["cmdline"] or [])}


def test_who_asks_a_sleeping_model_is_told_at_once_and_wakes_it(endpoint: serve.Endpoint) -> None:
    assert not servers("teacher")
    assert (state(endpoint, "teacher"), state(endpoint, "student")) == ("asleep", "ready")
    began = time.monotonic()
    first = ask(endpoint, "teacher")
    assert time.monotonic() - began < 5
    assert first.status_code == 503
    assert first.headers["Retry-After"] == "20"
    assert first.json()["error"]["message"].startswith("warming up: teacher sleeps")
    assert state(endpoint, "teacher") == "warming up"
    assert ask(endpoint, "student").status_code == 200
    until(lambda: ask(endpoint, "teacher").status_code == 200, 120)
    assert state(endpoint, "teacher") == "ready"


def test_a_woken_model_is_let_go_when_nobody_asks_and_says_so_again(endpoint: serve.Endpoint) -> None:
    until(lambda: not servers("teacher"), 120)
    refused = ask(endpoint, "teacher")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, 503)


class Load:
    """Requests to one model without pause, streamed and whole, from several callers at once."""

    def __init__(self, endpoint: serve.Endpoint, model: str) -> None:
        self.endpoint, self.model = endpoint, model
        self.failed: list[str] = []
        self.texts: list[str] = []
        self.ending = threading.Event()

    def run(self) -> None:
        url = f"{self.endpoint.base_url}/v1/chat/completions"
        with httpx.Client(timeout=120) as client:
            while not self.ending.is_set():
                try:
                    whole = client.post(url, json={**ASK, "model": self.model})
                    streamed = client.post(url, json={**ASK, "model": self.model, "stream": True})
                except httpx.HTTPError as e:
                    self.failed.append(type(e).__name__)
                    continue
                if whole.status_code != 200 or streamed.status_code != 200 or "[DONE]" not in streamed.text:
                    self.failed.append(f"{whole.status_code}, {streamed.status_code}: {whole.text} {streamed.text}")
                    continue
                self.texts.append(whole.json()["choices"][0]["message"]["content"])


@contextlib.contextmanager
def loaded(endpoint: serve.Endpoint, model: str) -> Iterator[Load]:
    load = Load(endpoint, model)
    callers = [threading.Thread(target=load.run) for _ in range(AT_ONCE)]
    for caller in callers:
        caller.start()
    try:
        until(lambda: bool(load.texts or load.failed), 60)
        yield load
    finally:
        load.ending.set()
        for caller in callers:
            caller.join()


def test_a_student_gives_way_to_the_next_without_one_failed_request(
    endpoint: serve.Endpoint, models: dict[str, Checkpoint], context: Context
) -> None:
    second = build_tiny_model(context.scratch / "second", layers=1)
    before = servers("student")
    with loaded(endpoint, "student") as load:
        changed = serve.replace(endpoint, {**models, "student": Checkpoint(str(second), "second")}, SLEEPS, context)
        after = ask(endpoint, "student").json()["choices"][0]["message"]["content"]
        seen = len(load.texts)
        until(lambda: len(load.texts) > seen + 2 * AT_ONCE, 60)
    assert load.failed == []
    assert load.texts[0] != after
    assert set(load.texts[-AT_ONCE:]) == {after}
    assert set(load.texts) == {load.texts[0], after}
    until(lambda: not before & servers("student"), 60)
    broken = context.scratch / "broken"
    build_tiny_model(broken)
    (broken / "model.safetensors").write_bytes(b"no weights")
    with loaded(changed, "student") as load, pytest.raises(StageError, match="could not be served"):
        serve.replace(changed, {**models, "student": Checkpoint(str(broken), "broken")}, SLEEPS, context)
    assert load.failed == []
    assert set(load.texts) == {after}


def test_without_room_for_both_the_endpoint_stays_as_it_is(
    endpoint: serve.Endpoint, models: dict[str, Checkpoint], context: Context, tmp_path: Path
) -> None:
    many = Serve.model_validate({"replicas": {"student": 900}})
    with pytest.raises(ResourceError, match=r"to change student without a gap 900 CPUs more are needed, and \d"):
        serve.replace(endpoint, {"student": Checkpoint(str(tmp_path), "third")}, many, context)
    assert ask(endpoint, "student").status_code == 200

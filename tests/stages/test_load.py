"""Loads over real HTTP, against servers of the test's own whose speed is known."""

import itertools
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fixtures_openai import Server, chunk, events, start

from raystill import artifacts, recipe
from raystill.artifacts import Manifest, Table
from raystill.asking import View
from raystill.context import Context
from raystill.errors import Interrupted, StageError
from raystill.records import Load, Message, Prompt
from raystill.stages import load


class Quiet:
    """A progress view that shows nothing."""

    def start(self, stage: str, total: int | None, unit: str) -> None: ...

    def advance(self, done: int = 1, **scalars: float) -> None: ...

    def say(self, text: str) -> None: ...


@dataclass
class Hosted:
    """Models behind a scripted server, and a meter that counts a joule per request."""

    server: Server
    joules: bool = True
    key: str | None = None
    metered: list[str] = field(default_factory=list)

    @property
    def base_url(self) -> str:
        return self.server.url

    def stats(self) -> dict[str, dict[str, int]]:
        return {name: {"weights_bytes": 1000, "peak_memory_bytes": 3000} for name in ("teacher", "student")}

    def meters(self, model: str) -> dict[str, Any]:
        self.metered.append(model)
        return {
            "energy_j": {"package-0 (RAPL)": float(len(self.server.asked))} if self.joules else {},
            "kv_bytes_per_token": 4.0,
        }


def said(body: dict[str, Any]) -> Any:
    usage = {"choices": [], "usage": {"prompt_tokens": 6, "completion_tokens": 2}}
    return 200, {}, events(chunk(content="a "), chunk(content="b"), chunk("stop"), usage)


@pytest.fixture
def hosted() -> Iterator[Hosted]:
    server = start()
    server.says = lambda i, body: said(body)
    yield Hosted(server)
    server.shutdown()
    server.server_close()


def prompts(folder: Path, n: int = 12) -> Table:
    rows = [
        Prompt(f"{i:03}", None, [Message("user", f"say {i}")], None, "t", "f", "test", None, "{}") for i in range(n)
    ]
    part = artifacts.write_part(str(folder), "test", Prompt, rows)
    return Table(str(folder), "p", Manifest("prompts", 1, "prepare", 1, "p", {}, {}, [part]))


def context(folder: Path, max_error_rate: float = 0.05) -> Context:
    return Context(str(folder), recipe.Compute(), Quiet(), max_error_rate, folder)


def views(*names: str) -> list[View]:
    return [View(name, None, [], 7, 0.0) for name in names]


def measure(config: recipe.Evaluate, hosted: Hosted, folder: Path, *names: str) -> dict[str, list[Load]]:
    return load.measure(config, views(*names), hosted, prompts(folder / "p"), "test machine", context(folder / "out"))


def test_every_stated_load_with_what_the_machine_tells(tmp_path: Path, hosted: Hosted) -> None:
    loads = measure(recipe.Evaluate(load=[4, 1], load_requests=12), hosted, tmp_path, "student")["student"]
    assert [(x.concurrency, x.requests, x.errors, x.hardware) for x in loads] == [
        (1, 12, 0, "test machine"),
        (4, 16, 0, "test machine"),  # at least four requests per user
    ]
    assert len(hosted.server.asked) == 1 + 12 + 4 + 16
    assert {(x.weights_bytes, x.peak_memory_bytes, x.kv_bytes_per_token) for x in loads} == {(1000, 3000, 4.0)}
    assert [x.kv_bytes for x in loads] == [4.0 * 8, 4.0 * 8 * 4]
    assert [(x.energy_j, x.energy_of) for x in loads] == [(12.0, "package-0 (RAPL)"), (16.0, "package-0 (RAPL)")]
    made = load.outcome(loads, context(tmp_path / "out"))
    table = Table(str(tmp_path / "out"), "l", Manifest("load", 2, "load", 2, "l", {}, {}, list(made.files)))
    assert list(table.rows(Load)) == loads


def test_a_machine_that_tells_no_energy_has_none(tmp_path: Path, hosted: Hosted) -> None:
    hosted.joules = False
    (only,) = measure(recipe.Evaluate(load=[1], load_requests=2), hosted, tmp_path, "student")["student"]
    assert (only.energy_j, only.energy_of) == (None, None)


def test_models_take_turns_with_the_same_prompts(tmp_path: Path, hosted: Hosted) -> None:
    found = measure(recipe.Evaluate(load=[2], load_requests=8), hosted, tmp_path, "teacher", "student")
    assert {name: [x.requests for x in loads] for name, loads in found.items()} == {"teacher": [8], "student": [8]}
    asked = [(body["model"], body["messages"][-1]["content"]) for body in hosted.server.asked]
    turns = [asked[0][0], *(b for (a, _), (b, _) in itertools.pairwise(asked) if a != b)]
    assert turns == ["teacher", "student", "teacher", "student", "teacher"]  # warm-ups, then there and back again
    by_model = {name: sorted(text for model, text in asked if model == name) for name in found}
    assert by_model["teacher"] == by_model["student"]


def test_users_served_are_searched_for_each_model(tmp_path: Path, hosted: Hosted) -> None:
    """The teacher answers two at a time, 120 ms each, the student six."""
    rooms = {"teacher": threading.Semaphore(2), "student": threading.Semaphore(6)}
    lock = hosted.server.lock

    def says(i: int, body: dict[str, Any]) -> Any:
        lock.release()
        try:
            with rooms[body["model"]]:
                time.sleep(0.12)
        finally:
            lock.acquire()
        return said(body)

    hosted.server.says = says
    config = recipe.Evaluate(
        load=[1], load_requests=8, max_users=32, objective=recipe.Objective(latency_p95_s=0.22), together=True
    )
    found = measure(config, hosted, tmp_path, "teacher", "student")
    most = {n: max(x.concurrency for x in loads if x.seconds_per_answer_p95 <= 0.22) for n, loads in found.items()}
    assert 1 <= most["teacher"] <= 3 and 4 <= most["student"] <= 10
    assert all(loads == sorted(loads, key=lambda x: x.concurrency) for loads in found.values())


def test_a_failed_request_is_not_asked_again_and_too_many_stop_it(tmp_path: Path, hosted: Hosted) -> None:
    hosted.server.says = lambda i, body: (503, {}, b"{}") if i % 2 else said(body)
    with pytest.raises(StageError, match=r"student failed on 4 of 8 requests.*HTTP 503"):
        measure(recipe.Evaluate(load=[1], load_requests=8), hosted, tmp_path, "student")
    assert len(hosted.server.asked) == 9
    hosted.server.script((500, {}, b"{}"))
    with pytest.raises(StageError, match=r"answered none of 8 requests"):
        measure(recipe.Evaluate(load=[1], load_requests=8), hosted, tmp_path, "student")


def test_beyond_the_stated_loads_failures_break_the_objective_alone(tmp_path: Path, hosted: Hosted) -> None:
    def says(i: int, body: dict[str, Any]) -> Any:
        crowded = hosted.server.at_once >= 3
        return (503, {}, json.dumps({"error": {}}).encode()) if crowded else said(body)

    hosted.server.says, hosted.server.wait_s = says, 0.02
    config = recipe.Evaluate(load=[1], load_requests=8, max_users=8, objective=recipe.Objective(latency_p95_s=60))
    loads = measure(config, hosted, tmp_path, "student")["student"]
    assert max(x.concurrency for x in loads if not x.errors) <= 3
    assert any(x.errors for x in loads)


def test_ctrl_c_stops_it(tmp_path: Path, hosted: Hosted) -> None:
    stopped = context(tmp_path / "out")

    def says(i: int, body: dict[str, Any]) -> Any:
        stopped.stopping.set()
        return said(body)

    hosted.server.says = says
    with pytest.raises(Interrupted):
        load.measure(recipe.Evaluate(), views("student"), hosted, prompts(tmp_path / "p"), "m", stopped)
    assert len(hosted.server.asked) <= 2

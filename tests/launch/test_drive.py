"""The driver against an API that answers as Kubernetes does, and misbehaves."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from documents import of_stage, rendered

from raystill import live, planning
from raystill.context import Progress
from raystill.errors import Interrupted, ResourceError, StageError
from raystill.launch import api, drive, seen
from raystill.launch.kubeconfig import bearer

JOB = of_stage(rendered("small"), "train")
NAME = JOB["metadata"]["name"]
LIST = "/apis/ray.io/v1/namespaces/raystill/rayjobs"
DONE = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}
Answer = httpx.Response | Exception


class Told:
    """Progress that keeps its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def start(self, stage: str, total: int | None, unit: str) -> None: ...

    def advance(self, done: int = 1, **scalars: float) -> None: ...

    def say(self, text: str) -> None:
        self.lines.append(text)


def job(status: dict[str, Any] | None = None, **changes: Any) -> httpx.Response:
    return httpx.Response(200, json={**JOB, **changes, "status": status or {}})


def absent() -> httpx.Response:
    return httpx.Response(404, json={"message": f'rayjobs.ray.io "{NAME}" not found'})


@pytest.fixture
def asked() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, asked: list[tuple[str, str]]) -> Callable[..., list[str]]:
    """Make the stage against these answers, one after another; what was said."""
    monkeypatch.setattr(api, "POLL_S", 0)

    def run(*answers: Answer, stopping: threading.Event | None = None, patience_s: float = 60) -> list[str]:
        left: Iterator[Answer] = iter(answers)

        def answer(request: httpx.Request) -> httpx.Response:
            assert request.headers["Authorization"] == "Bearer t0ken"
            asked.append((request.method, request.url.path))
            if request.method == "POST":
                assert json.loads(request.content) == JOB
            said = next(left)
            if isinstance(said, Exception):
                raise said
            return said

        told = Told()
        progress: Progress = told
        auth = bearer(lambda: "t0ken")
        with httpx.Client(transport=httpx.MockTransport(answer), base_url="https://api", auth=auth) as client:
            drive.make(api.Api(client, stopping or threading.Event(), patience_s), JOB, progress)
        assert next(left, None) is None, "not all answers were asked for"
        return told.lines

    return run


def test_a_stage_is_created_and_waited_for(make: Callable[..., list[str]], asked: list[tuple[str, str]]) -> None:
    said = make(
        absent(), httpx.Response(201, json=JOB), job(), job({"jobDeploymentStatus": "Initializing"}),
        job({"jobDeploymentStatus": "Running"}), job({"jobDeploymentStatus": "Running"}), job(DONE),
    )  # fmt: skip
    assert asked[:2] == [("GET", f"{LIST}/{NAME}"), ("POST", LIST)]
    assert said == [f"{NAME}: waits", f"{NAME}: Initializing", f"{NAME}: Running", f"{NAME}: Complete"]


def test_a_new_driver_finds_the_stage_that_runs(make: Callable[..., list[str]], asked: list[tuple[str, str]]) -> None:
    running = {"jobDeploymentStatus": "Running"}
    make(job(running), job(running), job(DONE))
    assert {method for method, _ in asked} == {"GET"}


def test_an_api_server_that_is_away_is_waited_for(make: Callable[..., list[str]]) -> None:
    make(
        httpx.ConnectError("refused"), httpx.Response(503), httpx.Response(429), absent(),
        httpx.ReadTimeout("slow"), httpx.Response(201, json=JOB), httpx.Response(500), job(DONE),
    )  # fmt: skip


def test_a_creation_whose_answer_was_lost_is_found(
    make: Callable[..., list[str]], asked: list[tuple[str, str]]
) -> None:
    """The second POST meets the first one's RayJob."""
    make(
        absent(),
        httpx.ReadTimeout("lost"),
        httpx.Response(409, json={}),
        job({"jobDeploymentStatus": "Running"}),
        job(DONE),
    )
    assert [method for method, _ in asked].count("POST") == 2


def test_one_that_ended_without_its_result_is_made_again(
    make: Callable[..., list[str]], asked: list[tuple[str, str]]
) -> None:
    going = {"metadata": JOB["metadata"] | {"deletionTimestamp": "2026-01-01T00:00:00Z"}}
    failed = {"jobDeploymentStatus": "Failed"}
    make(
        job(failed),
        httpx.Response(200, json={}),
        job(failed, **going),
        absent(),
        httpx.Response(201, json=JOB),
        job(DONE),
    )
    assert [method for method, _ in asked] == ["GET", "DELETE", "GET", "GET", "POST", "GET"]


@pytest.mark.parametrize(
    ("status", "says"),
    [
        ({"jobDeploymentStatus": "Failed", "message": "DeadlineExceeded: 24 h"}, "DeadlineExceeded: 24 h"),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, "jobStatus STOPPED"),
        ({"jobDeploymentStatus": "ValidationFailed", "reason": "ValidationFailed"}, "ValidationFailed"),
    ],
)
def test_a_failure_is_told_in_the_operators_words(
    make: Callable[..., list[str]], status: dict[str, Any], says: str
) -> None:
    with pytest.raises(StageError, match=says):
        make(absent(), httpx.Response(201, json=JOB), job(status))


def test_one_that_somebody_deleted_is_told(make: Callable[..., list[str]]) -> None:
    with pytest.raises(StageError, match="deleted by someone"):
        make(absent(), httpx.Response(201, json=JOB), job({"jobDeploymentStatus": "Running"}), absent())


def test_another_recipes_stage_is_left_alone(make: Callable[..., list[str]], asked: list[tuple[str, str]]) -> None:
    other = json.loads(json.dumps(JOB).replace(seen.config(JOB), "small-another"))
    with pytest.raises(StageError, match="runs already, for another recipe"):
        make(httpx.Response(200, json=other | {"status": {"jobDeploymentStatus": "Running"}}))
    assert [method for method, _ in asked] == ["GET"]


def test_what_is_forbidden_is_said_as_kubernetes_says_it(make: Callable[..., list[str]]) -> None:
    with pytest.raises(StageError, match=r"403: rayjobs.ray.io is forbidden.*k8s/README.md"):
        make(absent(), httpx.Response(403, json={"message": "rayjobs.ray.io is forbidden"}))


def test_a_driver_that_is_stopped_leaves_its_stage(
    make: Callable[..., list[str]], asked: list[tuple[str, str]]
) -> None:
    stopping = threading.Event()
    stopping.set()
    with pytest.raises(Interrupted, match="what runs in the cluster goes on"):
        make(absent(), httpx.Response(201, json=JOB), job({"jobDeploymentStatus": "Running"}), stopping=stopping)
    assert "DELETE" not in [method for method, _ in asked]


def test_an_api_server_that_stays_away_ends_the_wait(make: Callable[..., list[str]]) -> None:
    with pytest.raises(StageError, match="has not answered"):
        make(httpx.Response(503), httpx.Response(503), patience_s=0)


def test_the_driver_makes_what_needs_no_cluster_and_calls_for_the_first_stage_that_does(
    tmp_path: Path, tiny_model: Path
) -> None:
    rows = [{"id": str(i), "prompt": f"question {i}", "reference": f"answer {i}"} for i in range(40)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "name": "n",
        "root": str(tmp_path / "root"),
        "task": "conversation",
        "data": {"train": str(tmp_path / "train.jsonl"), "reference": "reference"},
        "teacher": {"kind": "reference"},
        "student": {"model": str(tiny_model)},
        "evaluate": {"max_tokens": 64},
    }
    (tmp_path / "n.yaml").write_text(json.dumps(recipe))
    called: list[str] = []

    def elsewhere(progress: Progress, stopping: threading.Event, stage: str) -> None:
        called.append(stage)
        raise StageError("no cluster here")

    with pytest.raises(StageError, match="no cluster here"):
        live.run(str(tmp_path / "n.yaml"), elsewhere=elsewhere)
    assert called == ["train"]
    states = {step.label: step.state for step in planning.plan(str(tmp_path / "n.yaml")).steps}
    assert [states[label] for label in ("prepare", "generate", "curate", "train student")] == ["done"] * 3 + ["to do"]


def test_outside_a_pod_it_says_so() -> None:
    with pytest.raises(ResourceError, match="raystill run"):
        drive.drive("recipe.yaml", None)

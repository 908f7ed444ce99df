"""What is counted around the endpoint, several nodes' metrics as one page, and a dashboard that asks for what there is."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
from dashboards import ENDPOINT, expressions, names
from fastapi.responses import StreamingResponse
from prometheus_client.parser import text_string_to_metric_families

from raystill.serving import metrics
from raystill.serving.guard import Bounds, Guard
from raystill.serving.keys import Key, digest

NODE = """\
# HELP ray_node_cpu_count of the machine
# TYPE ray_node_cpu_count gauge
ray_node_cpu_count 2.0
# HELP ray_serve_deployment_queued_queries waiting
# TYPE ray_serve_deployment_queued_queries gauge
ray_serve_deployment_queued_queries{{deployment="student",node="{0}"}} {0}
# HELP ray_raystill_requests_total requests
# TYPE ray_raystill_requests_total counter
ray_raystill_requests_total{{model_name="student",node="{0}",status="200"}} 7
"""


class Fake:
    """A Ray counter or gauge that remembers."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, dict[str, str]]] = []

    def inc(self, value: float, tags: dict[str, str]) -> None:
        self.seen.append((value, tags))

    set = inc


async def answering(scope: Any, receive: Any, send: Any) -> None:
    """Each model fails in the way that its name says."""
    asked = json.loads((await receive())["body"] or b"{}").get("model")
    if asked == "broken":
        raise RuntimeError("the engine is gone")
    if asked == "slow":
        await asyncio.Event().wait()
    await send({"type": "http.response.start", "status": 503 if asked == "full" else 200, "headers": []})
    if asked == "left":
        raise asyncio.CancelledError
    if asked == "slower and slower":
        await send({"type": "http.response.body", "body": b"data: {}\n\n", "more_body": True})
        await asyncio.Event().wait()
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize(
    ("body", "key", "counted"),
    [
        ({"model": "student"}, "k", ("student", "200")),
        ({"model": "student:adapter"}, "k", ("student", "200")),
        ({"model": "full"}, "k", ("full", "503")),
        ({"model": "broken"}, "k", ("broken", "500")),
        ({"model": "left"}, "k", ("left", "499")),
        ({"model": "slow"}, "k", ("slow", "408")),
        ({"model": "slower and slower"}, "k", ("slower and slower", "500")),
        ({"model": "anything a caller likes"}, "k", ("", "200")),
        ({"model": ["x"]}, "k", ("", "200")),
        ({"model": "full", "n": 1000}, "k", ("", "400")),
        ({"model": "student"}, "wrong", ("", "401")),
    ],
)
def test_each_request_is_counted_once_as_it_ends(
    body: Any, key: str, counted: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    requests, prices = Fake(), Fake()
    monkeypatch.setattr(metrics, "requests", lambda: requests)
    monkeypatch.setattr(metrics, "prices", lambda: prices)
    guard = Guard(answering, [Key("ours", digest("k"))], Bounds(2000, 100, timeout_s=0.2, in_flight=4))
    app = metrics.Counted(
        guard, ["student", "full", "broken", "left", "slow", "slower and slower"], {"student": 1e-6}, "EUR"
    )

    async def ask() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            await client.post("/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"})
            await client.get("/v1/models", headers={"Authorization": f"Bearer {key}"})

    with contextlib.suppress(RuntimeError, asyncio.CancelledError):  # as Ray Serve does around the application
        asyncio.run(ask())
    assert requests.seen == [(1, {"model_name": counted[0], "status": counted[1]})]
    told = [(1e-6, {"model_name": "student", "currency": "EUR"})] if counted[0] == "student" else []
    assert prices.seen == told


def test_a_caller_who_hangs_up_is_no_failure_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = Fake()
    monkeypatch.setattr(metrics, "requests", lambda: requests)

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"data: {}\n\n"
            await asyncio.sleep(0.001)

    async def streaming(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await StreamingResponse(endless())(scope, receive, send)

    heard = iter([{"type": "http.request", "body": b'{"model": "student"}'}, {"type": "http.disconnect"}])

    async def receive() -> Any:
        return next(heard)

    async def send(_message: Any) -> None:
        await asyncio.sleep(0)

    guard = Guard(streaming, [Key("ours", digest("k"))], Bounds(2000, 100, timeout_s=5, in_flight=4))
    app = metrics.Counted(guard, ["student"], {}, "USD")
    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"authorization", b"Bearer k")]}
    asyncio.run(app(scope, receive, send))
    assert requests.seen == [(1, {"model_name": "student", "status": "499"})]


def test_pages_of_several_nodes_are_one() -> None:
    text = metrics.merged([NODE.format(1), NODE.format(2), metrics.UNREACHABLE.format("10.0.0.3")])
    families = list(text_string_to_metric_families(text))
    assert text.count("# TYPE ray_serve_deployment_queued_queries gauge") == 1
    found = {s.name: [] for f in families for s in f.samples}
    for sample in (s for f in families for s in f.samples):
        found[sample.name].append(sample.labels.get("node"))
    assert found == {
        "ray_serve_deployment_queued_queries": ["1", "2"],
        "ray_raystill_requests_total": ["1", "2"],
        "ray_raystill_node_unreachable": ["10.0.0.3"],
    }


def test_the_dashboard_asks_for_metrics_of_these_versions() -> None:
    """That they are exposed by a live endpoint is in tests/stages/test_serve.py."""
    packages = Path(ray.__file__).parents[1]
    folders = (
        packages / "ray" / "serve" / "_private",
        packages / "vllm" / "v1" / "metrics",
        Path(metrics.__file__).parent,
    )
    sources = "".join(path.read_text() for folder in folders for path in folder.glob("*.py"))
    asked = {name for e in expressions(ENDPOINT) for name in names(e)}
    bases = {re.sub(r"^ray_(vllm_)?|_(total|bucket)$", "", name): name for name in asked}
    assert len(bases) >= 12
    assert [name for base, name in bases.items() if not re.search(rf"[\":]{base}\"", sources)] == []

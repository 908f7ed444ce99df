"""What the endpoint tells Prometheus beside Ray Serve's and vLLM's own metrics, and all of them as one page.

Theirs are ray_serve_* (queues, replicas) and, by model_name, ray_vllm_* (first token, time per token, tokens, running,
waiting). They lack requests by model and status, refused ones included, and what a token costs.
"""

import asyncio
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import httpx
import ray
from ray.util.metrics import Counter, Gauge

from raystill.serving.guard import MODEL, App, Message, Receive, Scope, Send

SHOWN = ("ray_serve_", "ray_vllm_", "ray_raystill_")
"""Beginnings of the names that concern the endpoint."""
LEFT = "499"
"""Status of an answer whose caller left before its end, as nginx calls it."""
BROKE_OFF = b'data: {"error"'
"""How a stream ends that the model left, or whose time was up."""
NODE_S = 5.0
"""Longest wait for one node's metrics."""
UNREACHABLE = """\
# HELP ray_raystill_node_unreachable Nodes whose metrics are missing here.
# TYPE ray_raystill_node_unreachable gauge
ray_raystill_node_unreachable{{node="{}"}} 1
"""


@cache
def requests() -> Counter:
    """Requests by model and status."""
    return Counter(
        "raystill_requests", "Requests by model ('' where none is hosted) and status.", ("model_name", "status")
    )


@cache
def prices() -> Gauge:
    """What one output token costs."""
    return Gauge("raystill_output_token_price", "Price of an output token.", ("model_name", "currency"))


class Counted:
    """ASGI middleware around everything: counts each POST once, when its answer ends, by the model that the guard read.

    `price` is of an output token, by model. It is told with each request: Ray forgets a gauge that is not set again.
    """

    def __init__(self, app: App, models: Iterable[str], price: Mapping[str, float], currency: str) -> None:
        self.app, self.models, self.price, self.currency = app, frozenset(models), price, currency

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on and note how it ends."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        said, end, left = "", "500", False

        async def heard() -> Message:
            nonlocal left
            message = await receive()
            left = left or message["type"] == "http.disconnect"
            return message

        async def noted(message: Message) -> None:
            nonlocal said
            if message["type"] == "http.response.start":
                said = str(message["status"])
            elif message.get("body", b"").startswith(BROKE_OFF):
                said = LEFT if left else "500"
            await send(message)

        try:
            await self.app(scope, heard, noted)
            end = said or LEFT
        except asyncio.CancelledError:
            end = LEFT
            raise
        finally:
            named = scope.get(MODEL)
            model = named.partition(":")[0] if isinstance(named, str) else ""  # an adapter counts as its base
            requests().inc(1, {"model_name": model if model in self.models else "", "status": end})
            if model in self.price:
                prices().set(self.price[model], {"model_name": model, "currency": self.currency})


def page() -> str:
    """The endpoint's metrics from all nodes, in Prometheus' text format; a node that does not answer is one too."""
    return merged(_of_node(node) for node in ray.nodes() if node["Alive"])


def merged(texts: Iterable[str]) -> str:
    """Several nodes' pages as one: each metric with one head, and of the endpoint's names alone."""
    families: dict[str, list[str]] = {}
    for text in texts:
        before, family = set(families), ""
        for line in text.splitlines():
            if line.startswith("# HELP "):
                family = line.split(" ", 3)[2]
            if family.startswith(SHOWN) and not (line.startswith("#") and family in before):
                families.setdefault(family, []).append(line)
    return "".join(f"{line}\n" for lines in families.values() for line in lines)


def _of_node(node: Mapping[str, Any]) -> str:
    host = node["NodeManagerAddress"]
    at = f"[{host}]" if ":" in host else host
    try:
        answer = httpx.get(f"http://{at}:{node['MetricsExportPort']}/metrics", timeout=NODE_S, trust_env=False)
        return answer.raise_for_status().text
    except httpx.HTTPError:
        return UNREACHABLE.format(host)

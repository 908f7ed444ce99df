"""The arms of serve.py, each in a process of its own: serve_arms.py ARM JOB RESULT."""

import asyncio
import contextlib
import dataclasses
import io
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from raystill import artifacts, client, engine, recipe, session
from raystill.artifacts import Checkpoint, Manifest, Table
from raystill.client import Client
from raystill.context import Context
from raystill.records import Message, Prompt
from raystill.stages import evaluate
from raystill.stages import serve as stage
from raystill.stages.serve import Endpoint
from raystill.view import Lines

NAME = "model"
OUTPUT_TOKENS = 48
EVALUATED_TOKENS = 16
START_S = 240
REFERENCE, ROUTE = "own", "/own"


@dataclass(frozen=True)
class Job:
    """What all arms do: the same prompts to the same model, `requests` of them for each number of users."""

    model: str
    prompts: list[str]
    users: list[int]
    requests: int
    rounds: int
    folder: str


@dataclass(frozen=True)
class Load:
    """So many users, each asking again when it is answered: output tokens per second, medians of two times in ms."""

    users: int
    tokens_per_s: float
    ttft_ms: float
    token_ms: float


class Instant:
    """An engine of no time, for Ray Serve LLM's RAYLLM_VLLM_ENGINE_CLS: what is measured is the way to it and back."""

    def __init__(self, llm_config: Any) -> None:
        self.model = llm_config.model_id

    async def start(self) -> None:
        """Nothing to load."""

    async def check_health(self) -> None:
        """Always well."""

    def routing_stats(self) -> dict[str, Any]:
        """Nothing to say."""
        return {}

    async def chat(self, request: Any, _raw: Any = None) -> AsyncGenerator[Any, None]:
        """One word, whole or as a stream."""
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionResponse

        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        whole = {"id": "chatcmpl-0", "created": 0, "model": self.model, "usage": usage}
        if not request.stream:
            choice = {"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}
            yield ChatCompletionResponse.model_validate({**whole, "choices": [choice]})
            return
        said = {"index": 0, "delta": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}
        for choices in ([said], []):
            yield f"data: {json.dumps({**whole, 'object': 'chat.completion.chunk', 'choices': choices})}\n\n"
        yield "data: [DONE]\n\n"


def raystill(job: Job) -> list[Load]:
    """The endpoint as `raystill serve` starts it."""
    with _endpoint(job) as (endpoint, _):
        return asyncio.run(_loads(job, endpoint.base_url))


def vllm(job: Job) -> list[Load]:
    """`vllm serve` with the same engine arguments, as the module that it runs: the CPU wheel's command looks for its version
    under the GPU wheel's name and ends."""
    arguments = engine.arguments(job.model, {})
    model = arguments.pop("model")
    flags = [flag for name, value in arguments.items() for flag in _flag(name.replace("_", "-"), value)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server_module = "vllm.entrypoints.openai.api_server"
    command = [sys.executable, "-m", server_module, "--model", model, "--served-model-name", NAME, *flags]
    environment = engine.environment(os.cpu_count() or 1, engine.has_gpu())
    server = subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port)], env={**os.environ, **environment})
    try:
        _await_health(f"http://127.0.0.1:{port}", server)
        return asyncio.run(_loads(job, f"http://127.0.0.1:{port}"))
    finally:
        server.terminate()
        server.wait(60)


def _flag(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    return [f"--{name}", str(value)]


def _await_health(url: str, server: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + START_S
    while server.poll() is None and time.monotonic() < until:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health", trust_env=False).status_code == 200:
                return
        time.sleep(0.5)
    raise RuntimeError(f"vllm serve did not answer in {START_S} s, or ended with {server.poll()}")


async def _loads(job: Job, url: str) -> list[Load]:
    async with Client(url) as to:
        return [await _load(job, to, users) for users in job.users]


async def _load(job: Job, to: Client, users: int) -> Load:
    """Users that ask at once, after a warm-up; every answer has the same length."""

    async def user(mine: Sequence[str]) -> list[client.Reply]:
        more = {"ignore_eos": True}
        return [await to.chat(NAME, [Message("user", asked)], OUTPUT_TOKENS, 0.0, **more) for asked in mine]

    await asyncio.gather(*(user([asked]) for asked in job.prompts[:users]))
    supply = job.prompts[users : users + job.requests]
    began = time.perf_counter()
    by_user = await asyncio.gather(*(user(supply[i::users]) for i in range(users)))
    replies = list(itertools.chain.from_iterable(by_user))
    elapsed_s = time.perf_counter() - began
    return Load(
        users,
        sum(r.output_tokens for r in replies) / elapsed_s,
        1e3 * statistics.median(r.ttft_s for r in replies),
        1e3 * statistics.median((r.elapsed_s - r.ttft_s) / (r.output_tokens - 1) for r in replies),
    )


def evaluation(job: Job) -> dict[str, list[float]]:
    """Rows per second of `evaluate` and of a loop that asks the same and keeps nothing, in turns on one endpoint."""
    rows = [
        Prompt(f"{i:06}", None, [Message("user", asked)], None, "bench", "bench", "test", None, "{}")
        for i, asked in enumerate(job.prompts[: job.requests])
    ]
    url = f"{job.folder}/prepare/p"
    part = artifacts.write_part(url, "test", Prompt, rows)
    table = artifacts.commit(Table, url, Manifest("prompts", Prompt.SCHEMA, "prepare", 1, "p", {}, {}, [part]))
    config = recipe.Evaluate(max_tokens=EVALUATED_TOKENS)
    rates: dict[str, list[float]] = {"evaluate": [], "bare": []}
    with _endpoint(job) as (endpoint, context):

        def ours(round_: int) -> None:
            evaluate.answer(
                config, NAME, None, [], endpoint, table, dataclasses.replace(context, url=f"{url}-{round_}")
            )

        def bare(_: int) -> None:
            asyncio.run(_ask_all(endpoint.base_url, [p.messages[0].content for p in rows], config.concurrency))

        ways: dict[str, Callable[[int], None]] = {"evaluate": ours, "bare": bare}
        bare(0)
        for number in range(job.rounds):
            for name in sorted(ways, reverse=bool(number % 2)):
                began = time.perf_counter()
                ways[name](number)
                rates[name].append(len(rows) / (time.perf_counter() - began))
    return rates


async def _ask_all(url: str, prompts: Sequence[str], concurrency: int) -> None:
    """A client's shortest loop: plain requests, whole answers."""
    free = asyncio.Semaphore(concurrency)

    async def ask(to: httpx.AsyncClient, asked: str) -> None:
        body = {"model": NAME, "max_tokens": EVALUATED_TOKENS, "temperature": 0}
        async with free:
            answer = await to.post(
                "/v1/chat/completions", json={**body, "messages": [{"role": "user", "content": asked}]}
            )
            answer.raise_for_status()

    async with httpx.AsyncClient(base_url=url, timeout=300, trust_env=False) as to:
        await asyncio.gather(*(ask(to, asked) for asked in prompts))


def gateway(job: Job) -> dict[str, Any]:
    """Our ingress and Ray Serve LLM's own side by side over instant engines: each request's ms, asked in turns, and the
    memory of ours while it answers 10,000."""
    os.environ["RAYLLM_VLLM_ENGINE_CLS"] = f"{Path(__file__).stem}.{Instant.__name__}"
    from ray import serve
    from ray.serve.llm import LLMConfig, build_openai_app

    with _endpoint(job) as (endpoint, _):
        config = LLMConfig(
            model_loading_config={"model_id": NAME, "model_source": job.model},
            accelerator_config={"kind": "cpu"},
            placement_group_config={"bundles": [{"CPU": 1}]},
            deployment_config={"num_replicas": 1, "autoscaling_config": None, "ray_actor_options": {"num_cpus": 0}},
            log_engine_metrics=False,
        )
        quiet = {"num_replicas": 1, "autoscaling_config": None, "ray_actor_options": {"num_cpus": 0}}
        app = build_openai_app({"llm_configs": [config], "ingress_deployment_config": quiet})
        serve.run(app, name=REFERENCE, route_prefix=ROUTE)
        return asyncio.run(_gateway(endpoint.base_url, job.requests))


async def _gateway(url: str, requests: int) -> dict[str, Any]:
    body = {"model": NAME, "messages": [{"role": "user", "content": "yes or no?"}], "max_tokens": 1}
    taken: dict[str, list[float]] = {"ours": [], "own": []}
    async with httpx.AsyncClient(base_url=url, timeout=60, trust_env=False) as to:

        async def ask(route: str) -> float:
            began = time.perf_counter()
            (await to.post(f"{route}/v1/chat/completions", json=body)).raise_for_status()
            return 1e3 * (time.perf_counter() - began)

        for _ in range(100):
            await ask(""), await ask(ROUTE)
        for number in range(requests):
            turns = [("ours", ""), ("own", ROUTE)]
            for name, route in reversed(turns) if number % 2 else turns:
                taken[name].append(await ask(route))

        async def asks(count: int) -> None:
            for _ in range(count):
                await ask("")

        memory = [(0, _serve_bytes())]
        for answered in range(1_000, 11_000, 1_000):
            await asyncio.gather(*(asks(1_000 // 8) for _ in range(8)))
            memory.append((answered, _serve_bytes()))
    return {"ms": taken, "memory": memory}


def _serve_bytes() -> int:
    """Resident bytes of Ray Serve's processes on this machine: proxy, controller, ingress and servers."""
    import psutil

    return sum(
        p.info["memory_info"].rss
        for p in psutil.process_iter(["cmdline", "memory_info"])
        if " ".join(p.info["cmdline"] or []).startswith(
            ("ray::ServeReplica", "ray::ProxyActor", "ray::ServeController")
        )
    )


@contextlib.contextmanager
def _endpoint(job: Job) -> Iterator[tuple[Endpoint, Context]]:
    compute = recipe.Compute(cpus=8)
    context = Context(f"{job.folder}/serve/s", compute, Lines(io.StringIO()), 0.0, Path(job.folder))
    with session.ray_session(compute) as ensure:
        ensure()
        with stage.serve({NAME: Checkpoint(job.model, "m")}, recipe.Serve(), context, port=0) as endpoint:
            yield endpoint, context


ARMS: dict[str, Callable[[Job], Any]] = {
    "raystill": raystill,
    "vllm": vllm,
    "evaluate": evaluation,
    "gateway": gateway,
}

if __name__ == "__main__":
    arm, job_file, result_file = sys.argv[1:]
    result = ARMS[arm](Job(**json.loads(Path(job_file).read_text())))
    plain = [dataclasses.asdict(r) for r in result] if isinstance(result, list) else result
    Path(result_file).write_text(json.dumps(plain))

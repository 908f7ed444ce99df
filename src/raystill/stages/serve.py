"""serve: a context manager that hosts models behind one endpoint and leaves nothing running."""

import contextlib
import dataclasses
import json
import os
import secrets
import shlex
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raystill import engine, memory, recipe, storage
from raystill.artifacts import COMMIT, Checkpoint
from raystill.context import Context
from raystill.errors import Interrupted, RecipeError, ResourceError, StageError
from raystill.placement import Node
from raystill.serving import fit
from raystill.serving.keys import KEY
from raystill.serving.sharing import Host, hosts
from raystill.session import need, nodes

APP = "raystill"
STOP_S = 5.0
"""Time for begun answers when an endpoint ends."""
POLL_S = 0.2
"""Time between two looks at replicas that start."""
LATE_S = 5.0
"""How long after the guard's time limit Ray Serve's own cuts a request: the guard's is told as OpenAI's clients read it."""


@dataclass(frozen=True)
class Endpoint:
    """Where models answer."""

    base_url: str
    key: str | None
    models: Mapping[str, Checkpoint]
    hosts: Sequence[Host]
    finish_s: float
    page: Mapping[str, Any] | None = None
    run: Mapping[str, str] = field(default_factory=dict)
    routing: Mapping[str, Any] = field(default_factory=dict)

    def stats(self) -> dict[str, dict[str, int]]:
        """Per model the bytes of its weights and the peak memory of its server's processes so far."""
        from raystill.serving.app import server_handle

        asked = {host.name: server_handle(host.name, APP).peak_memory_bytes.remote() for host in self.hosts}
        peaks = {name: asked[host.name].result() for host in self.hosts for name in host.names()}
        return {
            name: {"weights_bytes": model.weights_bytes(), "peak_memory_bytes": peaks[name]}
            for name, model in self.models.items()
        }

    def meters(self, model: str) -> dict[str, Any]:
        """What the server of a model tells of its machine, see `serving.app`."""
        from raystill.serving.app import server_handle

        host = next(host for host in self.hosts if model in host.names())
        told: dict[str, Any] = server_handle(host.name, APP).meters.remote().result()
        return told


@contextlib.contextmanager
def serve(
    models: Mapping[str, Checkpoint],
    config: recipe.Serve,
    context: Context,
    *,
    own: Mapping[str, Mapping[str, Any]] = {},
    port: int | None = None,
    finish_s: float = STOP_S,
    page: Mapping[str, Any] | None = None,
    run: Mapping[str, str] = {},
    routing: Mapping[str, Any] = {},
) -> Iterator[Endpoint]:
    """Host models until the block is left; `port` replaces the recipe's, 0 is a free one.

    `own` holds arguments of single models' servers, which go before serve.engine's. `finish_s` is how long an engine that
    goes may take for answers it has begun: serve.timeout_s where models are replaced. `page` is what the playground is told,
    without which there is none, `routing` pipeline.routing's, and `run` names the run's artifacts for both.

    Raises ResourceError for a taken port or too small a cluster, RecipeError for an open address without a key and
    StageError when a model does not start.
    """
    # Our own requests have a key too where a file names those of others, and no limit.
    key = os.environ.get(KEY) or (secrets.token_hex(24) if config.keys_file else None)
    _refuse_open(config.host, key)
    engine.refuse_owned(config.engine, "serve.engine")
    engine.refuse_unknown(config.engine, "serve.engine")
    bound = _port(config.host, config.port if port is None else port)
    made = _hosts(models, config, own)
    _refuse_too_large(made, config)

    # Imported here: with Ray Serve LLM it takes seconds, and plan imports this module.
    from ray import serve as ray_serve

    context.progress.start(f"serve {', '.join(models)}", None, "models")
    try:
        ray_serve.start(
            proxy_location="HeadOnly",
            http_options={"host": config.host, "port": bound, "request_timeout_s": config.timeout_s + LATE_S},
            logging_config={"enable_access_log": False},
        )
        endpoint = Endpoint(f"http://{config.host}:{bound}", key, models, made, finish_s, page, run, routing)
        _deploy(endpoint, config, context)
        yield endpoint
    finally:
        ray_serve.shutdown()


def replace(
    endpoint: Endpoint,
    models: Mapping[str, Checkpoint],
    config: recipe.Serve,
    context: Context,
    *,
    own: Mapping[str, Mapping[str, Any]] = {},
    run: Mapping[str, str] = {},
) -> Endpoint:
    """Host other models, of another run's artifacts, at a running endpoint without failing a request: what changed starts
    beside what answers, which goes when that is healthy.

    Raises ResourceError where there is no room for both, and StageError when a new one does not start; the old ones then
    answer on.
    """
    import ray

    made = _hosts(models, config, own)
    changed = [host for host in made if host not in endpoint.hosts]
    free, there = ray.available_resources(), nodes()
    counts = [_count(host, config) for host in changed]
    gpus = sum(n * engine.gpus(h.engine, _on_gpu(there)) for h, n in zip(changed, counts, strict=True))
    for kind, wanted in (("CPU", sum(counts)), ("GPU", gpus)):
        if wanted > free.get(kind, 0):
            raise ResourceError(
                f"to change {', '.join(h.name for h in changed)} without a gap {wanted} {kind}s more are needed, and "
                f"{free.get(kind, 0):g} are free; stop the endpoint and start it again, or add them"
            )
    _refuse_too_large(changed, config)
    context.progress.start(f"change {', '.join(host.name for host in changed)}", None, "models")
    changed_to = dataclasses.replace(endpoint, models=models, hosts=made, run=run)
    _deploy(changed_to, config, context)
    return changed_to


def _hosts(models: Mapping[str, Checkpoint], config: recipe.Serve, own: Mapping[str, Mapping[str, Any]]) -> list[Host]:
    return hosts(models, {name: {**config.engine, **own.get(name, {})} for name in models}, config)


def _deploy(endpoint: Endpoint, config: recipe.Serve, context: Context) -> None:
    """Have Ray Serve run an endpoint's models, whatever it runs now, and wait until they answer."""
    from ray import serve as ray_serve

    from raystill.serving.app import build

    there = nodes()
    args = {
        "models": [hosted(host, config.replicas_of(host.name), len(there) > 1) for host in endpoint.hosts],
        "on_gpu": _on_gpu(there),
        "key": endpoint.key,
        "cpus": os.cpu_count() or 1,
        "surge_percent": 100,
        "finish_s": endpoint.finish_s,
        "playground": endpoint.page and {**endpoint.page, "votes": _absolute(endpoint.page["votes"])},
        "routing": _routed(endpoint.routing),
        "made": {name: _absolute(url) for name, url in endpoint.run.items()},
        **limits(config),
    }
    target = ray_serve.RunTarget(build(args), name=APP, route_prefix="/")
    ray_serve.run_many([target], wait_for_applications_running=False)
    _await_running(", ".join(endpoint.models), config.start_timeout_s, context)


def limits(config: recipe.Serve) -> dict[str, Any]:
    """What `build` is told of a recipe's bounds."""
    return {
        "max_ongoing": config.max_ongoing,
        "max_queued": config.max_queued,
        "max_body_bytes": config.max_body_bytes,
        "max_tokens": config.max_tokens,
        "timeout_s": config.timeout_s,
        "keys_file": config.keys_file,
        "allow_origins": config.allow_origins,
    }


def _refuse_too_large(made: Sequence[Host], config: recipe.Serve) -> None:
    """Raise ResourceError when the cluster's CPUs and GPUs, or their memory, are too few for these engines."""
    there = nodes()
    counts = [_count(host, config) for host in made]
    gpus = [n * engine.gpus(host.engine, _on_gpu(there)) for host, n in zip(made, counts, strict=True)]
    what = " + ".join(f"{host.name} ({n} CPUs, {g} GPUs)" for host, n, g in zip(made, counts, gpus, strict=True))
    need(f"serve: {what}", sum(counts), sum(gpus), fix=fit.FEWER)
    if len(there) == 1 and not engine.on_cluster():
        fit.refuse(made, counts, memory.gpu_bytes() if _on_gpu(there) else None)


def _count(host: Host, config: recipe.Serve) -> int:
    return max(1, config.replicas_of(host.name).min_replicas)  # one that sleeps needs room when it wakes


def _on_gpu(there: Sequence[Node]) -> bool:
    return any(node.get("GPU") for node in there)


def _await_running(models: str, timeout_s: float, context: Context) -> None:
    """Wait until every replica answers. Raises StageError when one fails or time is up, Interrupted after Ctrl-C."""
    from ray import serve as ray_serve
    from ray.serve.schema import ApplicationStatus

    until = time.monotonic() + timeout_s
    while (app := ray_serve.status().applications[APP]).status != ApplicationStatus.RUNNING:
        if app.status in (ApplicationStatus.DEPLOY_FAILED, ApplicationStatus.UNHEALTHY):
            said = app.message.strip().splitlines() or ["no more is known"]
            raise StageError(f"{models} could not be served: {said[-1]}; the log says more")
        if context.stopping.is_set():
            raise Interrupted("stopped while models were starting; run the same command to start them again")
        if time.monotonic() > until:
            raise StageError(
                f"{models} did not start in serve.start_timeout_s = {timeout_s:g} s; the log says what they waited for; "
                "give large weights more time, or serve fewer models at once"
            )
        time.sleep(POLL_S)


def usage(endpoint: Endpoint, model: str) -> str:
    """The URL, a curl line and a Python line that work when pasted."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 64})
    header = f' -H "Authorization: Bearer ${KEY}"' if endpoint.key else ""
    key = f'__import__("os").environ["{KEY}"]' if endpoint.key else '"none"'
    python = (
        f'from openai import OpenAI; print(OpenAI(base_url="{endpoint.base_url}/v1", api_key={key}).chat.completions'
        f'.create(model="{model}", messages=[{{"role": "user", "content": "Hello"}}], max_tokens=64)'
        ".choices[0].message.content)"
    )
    return "\n".join(
        [
            f"serving {', '.join(endpoint.models)} at {endpoint.base_url}/v1 (Ctrl-C stops); playground: {endpoint.base_url}",
            f"curl {endpoint.base_url}/v1/chat/completions{header} -H 'Content-Type: application/json' "
            f"-d {shlex.quote(body)}",
            f"python -c {shlex.quote(python)}",
        ]
    )


def hosted(host: Host, replicas: recipe.Replicas, elsewhere: bool) -> dict[str, Any]:
    """An engine as the application takes it. `elsewhere` its replicas may start on nodes that have no copy of a remote model,
    which is then made where they start: of an s3:// folder by us, of a hub's commit by vLLM."""
    model, place = host.model, host.model.place()
    from_hub = (
        elsewhere and not storage.is_s3(place) and not Path(place).is_dir() and COMMIT.fullmatch(model.fingerprint)
    )
    pinned = {"revision": model.fingerprint, "tokenizer_revision": model.fingerprint} if from_hub else {}
    return {
        "name": host.name,
        **({"folder": place} if from_hub else _place(model, elsewhere)),
        "engine": {**host.engine, **pinned},
        "replicas": replicas.model_dump(),
        "also": list(host.also),
        "adapters": {name: _place(adapter, elsewhere) for name, adapter in host.adapters.items()},
    }


def _place(model: Checkpoint, elsewhere: bool) -> dict[str, str]:
    if elsewhere and storage.is_s3(model.place()):
        return {"url": model.place(), "fingerprint": model.fingerprint}
    folder = model.folder()
    return {"folder": _absolute(folder) if Path(folder).is_dir() else folder}


def _routed(routing: Mapping[str, Any]) -> dict[str, Any]:
    kept = routing.get("capture")
    return {**routing, "capture": {**kept, "to": _absolute(kept["to"])}} if kept else dict(routing)


def _absolute(url: str) -> str:
    """A place as a replica finds it, whose working folder may be another."""
    return url if storage.is_s3(url) else str(Path(url).absolute())


def _refuse_open(host: str, key: str | None) -> None:
    if host not in ("127.0.0.1", "localhost", "::1") and not key:
        raise RecipeError(
            f"serve.host {host} is open to other machines, and no key protects it; set one first: "
            f"export {KEY}=$(openssl rand -hex 24), or name several in serve.keys_file"
        )


def _port(host: str, port: int) -> int:
    """The port, or a free one for 0. Raises ResourceError when it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as e:
            raise ResourceError(
                f"{host}:{port} cannot be bound ({e.strerror}); another program uses it: choose another with --port, "
                "0 is a free one; to change what a running endpoint hosts, start it with --follow"
            ) from None
        bound: int = probe.getsockname()[1]
        return bound

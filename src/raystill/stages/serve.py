"""serve: a context manager that hosts models behind one endpoint and leaves nothing running."""

import contextlib
import json
import os
import secrets
import shlex
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raystill import engine, recipe, storage
from raystill.artifacts import COMMIT, Checkpoint
from raystill.context import Context
from raystill.errors import Interrupted, RecipeError, ResourceError, StageError
from raystill.serving.keys import KEY
from raystill.session import need, nodes

APP = "raystill"
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

    def stats(self) -> dict[str, dict[str, int]]:
        """Per model the bytes of its weights and the peak memory of its server's processes so far."""
        from raystill.serving.app import server_handle

        asked = {name: server_handle(name, APP).peak_memory_bytes.remote() for name in self.models}
        return {
            name: {"weights_bytes": self.models[name].weights_bytes(), "peak_memory_bytes": asked[name].result()}
            for name in self.models
        }

    def meters(self, model: str) -> dict[str, Any]:
        """What the server of a model tells of its machine, see `serving.app`."""
        from raystill.serving.app import server_handle

        told: dict[str, Any] = server_handle(model, APP).meters.remote().result()
        return told


@contextlib.contextmanager
def serve(
    models: Mapping[str, Checkpoint],
    config: recipe.Serve,
    context: Context,
    *,
    own: Mapping[str, Mapping[str, Any]] = {},
    port: int | None = None,
    page: Mapping[str, Any] | None = None,
    made: Mapping[str, str] = {},
) -> Iterator[Endpoint]:
    """Host models until the block is left; `port` replaces the recipe's, 0 is a free one.

    `own` holds arguments of single models' servers, which go before serve.engine's. `page` is what the playground is told,
    without which there is none, and `made` names the run's artifacts for it.

    Raises ResourceError for a taken port or too small a cluster, RecipeError for an open address without a key and
    StageError when a model does not start.
    """
    # Our own requests have a key too where a file names those of others, and no limit.
    key = os.environ.get(KEY) or (secrets.token_hex(24) if config.keys_file else None)
    _refuse_open(config.host, key)
    engine.refuse_owned(config.engine, "serve.engine")
    engine.refuse_unknown(config.engine, "serve.engine")
    bound = _port(config.host, config.port if port is None else port)
    engines = {name: {**config.engine, **own.get(name, {})} for name in models}
    there = nodes()
    on_gpu = any(node.get("GPU") for node in there)
    gpus = [engine.gpus(asked, on_gpu) for asked in engines.values()]
    need(f"serve ({len(models)} models of 1 CPU and {', '.join(map(str, gpus))} GPUs)", len(models), sum(gpus))

    # Imported here: with Ray Serve LLM it takes seconds, and plan imports this module.
    from ray import serve as ray_serve

    from raystill.serving.app import build

    args = {
        "models": [hosted(n, m, engines[n], len(there) > 1) for n, m in models.items()],
        "on_gpu": on_gpu,
        "key": key,
        "cpus": os.cpu_count() or 1,
        "max_ongoing": config.max_ongoing,
        "max_queued": config.max_queued,
        "max_body_bytes": config.max_body_bytes,
        "max_tokens": config.max_tokens,
        "timeout_s": config.timeout_s,
        "keys_file": config.keys_file,
        "allow_origins": config.allow_origins,
        "playground": page and {**page, "votes": _absolute(page["votes"])},
        "made": {name: _absolute(url) for name, url in made.items()},
    }
    context.progress.start(f"serve {', '.join(models)}", None, "models")
    try:
        ray_serve.start(
            proxy_location="HeadOnly",
            http_options={"host": config.host, "port": bound, "request_timeout_s": config.timeout_s + LATE_S},
            logging_config={"enable_access_log": False},
        )
        target = ray_serve.RunTarget(build(args), name=APP, route_prefix="/")
        ray_serve.run_many([target], wait_for_applications_running=False)
        _await_running(", ".join(models), config.start_timeout_s, context)
        yield Endpoint(f"http://{config.host}:{bound}", key, models)
    finally:
        ray_serve.shutdown()


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


def hosted(name: str, model: Checkpoint, asked: Mapping[str, Any], elsewhere: bool) -> dict[str, Any]:
    """A model as the application takes it. `elsewhere` its replica may start on a node that has no copy of a remote model,
    which is then made where it starts: of an s3:// folder by us, of a hub's commit by vLLM."""
    place = model.place()
    if elsewhere and storage.is_s3(place):
        return {"name": name, "engine": dict(asked), "url": place, "fingerprint": model.fingerprint}
    if elsewhere and not Path(place).is_dir() and COMMIT.fullmatch(model.fingerprint):
        pinned = {"revision": model.fingerprint, "tokenizer_revision": model.fingerprint}
        return {"name": name, "folder": place, "engine": {**asked, **pinned}}
    folder = model.folder()
    return {"name": name, "folder": _absolute(folder) if Path(folder).is_dir() else folder, "engine": dict(asked)}


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
                "0 is a free one"
            ) from None
        bound: int = probe.getsockname()[1]
        return bound

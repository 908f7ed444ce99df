"""serve: a context manager that hosts models behind one endpoint and leaves nothing running."""

import contextlib
import json
import os
import shlex
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from raystill import engine, recipe
from raystill.artifacts import Checkpoint
from raystill.context import Context
from raystill.errors import RecipeError, ResourceError, StageError
from raystill.session import need

APP = "raystill"
KEY = "RAYSTILL_API_KEY"
"""Environment variable that holds the endpoint's bearer key."""


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
            name: {"weights_bytes": weights_bytes(self.models[name]), "peak_memory_bytes": asked[name].result()}
            for name in self.models
        }


@contextlib.contextmanager
def serve(
    models: Mapping[str, Checkpoint], config: recipe.Serve, context: Context, *, port: int | None = None
) -> Iterator[Endpoint]:
    """Host models until the block is left; `port` replaces the recipe's, 0 is a free one.

    Raises ResourceError for a taken port or too small a cluster, RecipeError for an open address without a key and
    StageError when a model does not start.
    """
    key = os.environ.get(KEY)
    _refuse_open(config.host, key)
    engine.refuse_owned(config.engine, "serve.engine")
    bound = _port(config.host, config.port if port is None else port)
    gpus = int(engine.has_gpu())
    need(f"serve ({len(models)} models of 1 CPU and {gpus} GPUs each)", len(models), gpus * len(models))

    # Imported here: with Ray Serve LLM it takes seconds, and plan imports this module.
    from ray import serve as ray_serve

    from raystill.serving.app import build

    args = {
        "models": [{"name": n, "folder": _folder(m), "engine": dict(config.engine)} for n, m in models.items()],
        "key": key,
        "cpus": os.cpu_count() or 1,
        "max_ongoing": config.max_ongoing,
        "max_queued": config.max_queued,
        "max_body_bytes": config.max_body_bytes,
        "max_tokens": config.max_tokens,
    }
    context.progress.start(f"serve {', '.join(models)}", None, "models")
    try:
        ray_serve.start(
            proxy_location="HeadOnly",
            http_options={"host": config.host, "port": bound, "request_timeout_s": config.timeout_s},
            logging_config={"enable_access_log": False},
        )
        try:
            ray_serve.run(build(args), name=APP, route_prefix="/", blocking=False)
        except RuntimeError as e:
            reason = str(e).strip().splitlines()[-1] if str(e).strip() else type(e).__name__
            raise StageError(f"{', '.join(models)} could not be served: {reason}; the log says more") from e
        yield Endpoint(f"http://{config.host}:{bound}", key, models)
    finally:
        ray_serve.shutdown()


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
            f"serving {', '.join(endpoint.models)} at {endpoint.base_url}/v1 (Ctrl-C stops)",
            f"curl {endpoint.base_url}/v1/chat/completions{header} -H 'Content-Type: application/json' "
            f"-d {shlex.quote(body)}",
            f"python -c {shlex.quote(python)}",
        ]
    )


def weights_bytes(model: Checkpoint) -> int:
    """Bytes of a local model folder's safetensors; 0 for what is not local."""
    folder = Path(model.folder())
    return sum(p.stat().st_size for p in folder.glob("*.safetensors")) if folder.is_dir() else 0


def _folder(model: Checkpoint) -> str:
    folder = model.folder()
    return str(Path(folder).absolute()) if Path(folder).is_dir() else folder


def _refuse_open(host: str, key: str | None) -> None:
    if host not in ("127.0.0.1", "localhost", "::1") and not key:
        raise RecipeError(
            f"serve.host {host} is open to other machines, and no key protects it; set one first: "
            f"export {KEY}=$(openssl rand -hex 24)"
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

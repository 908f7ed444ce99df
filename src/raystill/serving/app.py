"""build: teacher, baseline and students as one Ray Serve application, OpenAI-compatible.

Ray Serve LLM's own ingress and servers do the work; what is unsafe in their defaults is set here: queues are bounded,
prompts stay out of logs, /docs and tokenisation routes are gone, CORS is for pages that the recipe names alone, and the
guard stands before everything.
`build` is also the import_path of a RayService: it takes plain values only.
"""

import json
import os
from dataclasses import dataclass
from typing import Any

import psutil
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import PlainTextResponse
from ray import serve
from ray.llm._internal.serve.core.configs.openai_api_models import to_model_metadata
from ray.llm._internal.serve.core.ingress.ingress import init
from ray.serve.handle import DeploymentHandle
from ray.serve.llm import LLMConfig, build_llm_deployment
from ray.serve.llm.deployment import LLMServer
from ray.serve.llm.ingress import make_fastapi_ingress
from starlette.middleware.base import BaseHTTPMiddleware

from raystill import artifacts, engine, memory, staging, storage
from raystill.artifacts import Checkpoint
from raystill.errors import ResourceError, StorageError
from raystill.serving import keys, metrics, playground
from raystill.serving.failures import KINDS, in_openais_form
from raystill.serving.guard import RETRY_AFTER, Bounds, Guard
from raystill.serving.keys import KEY
from raystill.serving.stopping import StoppingIngress

ROUTES = {
    "models": lambda app: app.get("/v1/models"),
    "model_data": lambda app: app.get("/v1/models/{model:path}"),
    "completions": lambda app: app.post("/v1/completions"),
    "chat": lambda app: app.post("/v1/chat/completions"),
}
CONSTRUCTIONS = 2
"""Attempts to start a replica before the deployment fails: a broken model should say so in a minute, not in twenty."""
REFUSING = 1024
"""Requests that the ingress may be refusing at one moment, beside those that it lets in: Ray Serve's own refusal is no JSON."""
LOOK_S = 0.05
"""Longest time between two looks of a waiting request for a free place: in Ray Serve's 0.5 s engines would stand idle."""


@dataclass(frozen=True)
class Model:
    """One model to host: its name in requests, its engine arguments, and its folder or hub id, or the address that a replica
    copies it from."""

    name: str
    engine: dict[str, Any]
    folder: str = ""
    url: str = ""
    fingerprint: str = ""

    def source(self) -> str:
        """What the engine loads. A copy lies under its fingerprint on every node, so an older one is never taken for it."""
        return self.folder or str(artifacts.copies() / self.fingerprint)


def newest(runs: str, name: str) -> dict[str, Any]:
    """The model of this name that a recipe's last run made; `runs` is its `<root>/runs/NAME.json`."""
    made = artifacts.load(Checkpoint, json.loads(storage.read(runs))[name])
    if made is None:
        raise StorageError(f"{runs} names a {name} that is not there; run the recipe again")
    return (
        {"url": made.place(), "fingerprint": made.fingerprint} if storage.is_s3(made.url) else {"folder": made.place()}
    )


class MeasuredServer(LLMServer):  # type: ignore[misc]
    """Ray Serve LLM's server, which fetches a remote model where it starts, and tells its memory."""

    # Ray Serve awaits an __init__ that is async.
    async def __init__(  # type: ignore[misc]
        self, llm_config: LLMConfig, *, remote: Checkpoint | None = None, **options: Any
    ) -> None:
        if remote:
            staging.staged(remote)
        await super().__init__(llm_config, **options)

    async def peak_memory_bytes(self) -> int:
        """Peak resident memory of this replica and its engine's processes, summed."""
        own = psutil.Process()
        return sum(memory.peak_rss(p.pid) for p in [own, *own.children(recursive=True)])


def build(args: dict[str, Any]) -> serve.Application:
    """The application.

    args: models [{name, engine, folder}] or [{name, engine, url, fingerprint}], on_gpu, cpus, max_ongoing, max_queued,
    max_body_bytes, max_tokens, timeout_s, allow_origins, keys_file, and key, None where only that file's open. A RayService's
    args lie in its manifest, so they hold no key, which the pods' environment does, and instead of places `runs`, which
    names them. With `playground`, which is pipeline.playground's, there is a page; it finds the run's artifacts in `made` or,
    again, `runs`. Raises ResourceError when there is no key where one is needed, StorageError for a model that is gone.
    """
    if "key" not in args and not os.environ.get(KEY) and not args["keys_file"]:
        raise ResourceError(f"this endpoint is open to other machines and has no key; set {KEY} in its pods")
    args = {"key": os.environ.get(KEY), **args}
    models = [Model(**m, **(newest(args["runs"], m["name"]) if "runs" in args else {})) for m in args["models"]]
    configs = [_config(model, args) for model in models]
    remote = [Checkpoint(model.url, model.fingerprint) if model.url else None for model in models]
    app = _fastapi(args)
    ingress = make_fastapi_ingress(StoppingIngress, endpoint_map=ROUTES, app=app)
    options = {
        "num_replicas": 1,
        "max_ongoing_requests": _in_flight(args) + REFUSING,
        "max_queued_requests": args["max_queued"],
        "backpressure_config": {"retry_after_s": float(RETRY_AFTER)},
        "ray_actor_options": {"num_cpus": 0},
    }
    return serve.deployment(ingress, name="ingress", **options).bind(
        llm_deployments={
            c.model_id: build_llm_deployment(c, deployment_cls=MeasuredServer, bind_kwargs={"remote": there})
            for c, there in zip(configs, remote, strict=True)
        },
        model_cards={c.model_id: to_model_metadata(c.model_id, c) for c in configs},
    )


def server_handle(model: str, app: str) -> DeploymentHandle:
    """The handle of one model's server in a running application."""
    return serve.get_deployment_handle(f"{MeasuredServer.__name__}:{model}", app)


def _in_flight(args: dict[str, Any]) -> int:
    """Requests that may run or wait in all models together."""
    most: int = (args["max_ongoing"] + args["max_queued"]) * len(args["models"])
    return most


def _fastapi(args: dict[str, Any]) -> FastAPI:
    app: FastAPI = init()  # Ray Serve LLM's own: request ids, metrics
    # Its errors hold tracebacks, and its CORS lets every page in.
    app.user_middleware = [m for m in app.user_middleware if m.cls not in (CORSMiddleware, BaseHTTPMiddleware)]
    app.router.routes = [r for r in app.router.routes if getattr(r, "path", "") not in _DOCS]
    for kind in (*KINDS, Exception):
        app.add_exception_handler(kind, in_openais_form)
    bounds = Bounds(args["max_body_bytes"], args["max_tokens"], args["timeout_s"], _in_flight(args))
    app.add_middleware(Guard, keys=keys.known(args["key"], args["keys_file"]), bounds=bounds)
    if args["allow_origins"]:
        told = ["Authorization", "Content-Type"]
        app.add_middleware(CORSMiddleware, allow_origins=args["allow_origins"], allow_methods=["*"], allow_headers=told)
    names, page = [model["name"] for model in args["models"]], args.get("playground")
    made = json.loads(storage.read(args["runs"])) if "runs" in args else args.get("made", {})
    prices = playground.prices_of(made, page["machine_hour"], names) if page else {}
    app.add_middleware(metrics.Counted, models=names, price=prices, currency=page["currency"] if page else "")
    app.get("/health")(health)
    app.get("/metrics", response_class=PlainTextResponse)(metrics.page)
    if page:
        app.include_router(playground.router(page, made, prices, args["max_tokens"]))
    return app


def health() -> dict[str, str]:
    """That the endpoint is up; needs no key."""
    return {"status": "ok"}


_DOCS = frozenset({"/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect"})


def _config(model: Model, args: dict[str, Any]) -> LLMConfig:
    cpu = not args["on_gpu"]
    arguments = engine.arguments(model.source(), model.engine, not cpu)
    del arguments["model"]
    arguments["override_generation_config"] = {
        "max_new_tokens": args["max_tokens"], **arguments.get("override_generation_config", {}),
    }  # fmt: skip
    return LLMConfig(
        model_loading_config={"model_id": model.name, "model_source": model.source()},
        engine_kwargs=arguments,
        accelerator_config={"kind": "cpu"} if cpu else None,
        placement_group_config={"bundles": [{"CPU": 1}]} if cpu else None,
        deployment_config={
            "max_ongoing_requests": args["max_ongoing"],
            "max_queued_requests": args["max_queued"],
            "request_router_config": {"max_backoff_s": LOOK_S},
            "max_constructor_retry_count": CONSTRUCTIONS,
            "num_replicas": 1,
            "autoscaling_config": None,
            "health_check_period_s": 10,
            "health_check_timeout_s": 120,
            "graceful_shutdown_timeout_s": 5,
            "ray_actor_options": {"num_cpus": 0 if cpu else 1},
        },
        runtime_env={
            "env_vars": engine.environment(args["cpus"], not cpu) | {"RAYLLM_ENABLE_REQUEST_PROMPT_LOGS": "0"}
        },
        experimental_configs={"stream_batching_interval_ms": 0},
        log_engine_metrics=True,
    )

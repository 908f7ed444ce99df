"""build: teacher, baseline and students as one Ray Serve application, OpenAI-compatible.

Ray Serve LLM's own ingress and servers do the work; what is unsafe in their defaults is set here: queues are bounded,
prompts stay out of logs, CORS, /docs and tokenisation routes are gone, and the guard stands before everything.
`build` is also the import_path of a RayService: it takes plain values only.
"""

import json
import os
from dataclasses import dataclass
from typing import Any

import psutil
from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse
from ray import serve
from ray.llm._internal.serve.core.configs.openai_api_models import to_model_metadata
from ray.llm._internal.serve.core.ingress.ingress import init
from ray.serve.handle import DeploymentHandle
from ray.serve.llm import LLMConfig, build_llm_deployment
from ray.serve.llm.deployment import LLMServer
from ray.serve.llm.ingress import OpenAiIngress, make_fastapi_ingress
from starlette.exceptions import HTTPException

from raystill import artifacts, engine, memory, staging, storage
from raystill.artifacts import Checkpoint
from raystill.errors import ResourceError, StorageError
from raystill.serving import metrics, playground
from raystill.serving.guard import KEY, Guard

ROUTES = {
    "models": lambda app: app.get("/v1/models"),
    "model_data": lambda app: app.get("/v1/models/{model:path}"),
    "completions": lambda app: app.post("/v1/completions"),
    "chat": lambda app: app.post("/v1/chat/completions"),
}
CONSTRUCTIONS = 2
"""Attempts to start a replica before the deployment fails: a broken model should say so in a minute, not in twenty."""


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
    max_body_bytes, max_tokens, and key, None for an open endpoint. A RayService's args lie in its manifest, so they hold no
    key, which the pods' environment does, and instead of places `runs`, which names them. With `playground`, which is
    pipeline.playground's, there is a page; it finds the run's artifacts in `made` or, again, `runs`. Raises ResourceError
    when there is no key where one is needed, StorageError for a model that is gone.
    """
    if "key" not in args and not os.environ.get(KEY):
        raise ResourceError(f"this endpoint is open to other machines and has no key; set {KEY} in its pods")
    args = {"key": os.environ.get(KEY), **args}
    models = [Model(**m, **(newest(args["runs"], m["name"]) if "runs" in args else {})) for m in args["models"]]
    configs = [_config(model, args) for model in models]
    remote = [Checkpoint(model.url, model.fingerprint) if model.url else None for model in models]
    app = _fastapi(args)
    ingress = make_fastapi_ingress(OpenAiIngress, endpoint_map=ROUTES, app=app)
    options = {
        "num_replicas": 1,
        "max_ongoing_requests": args["max_ongoing"] * len(configs) + args["max_queued"],
        "max_queued_requests": args["max_queued"],
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


def _fastapi(args: dict[str, Any]) -> FastAPI:
    app: FastAPI = init()  # Ray Serve LLM's own: request ids, OpenAI-shaped errors, metrics
    app.user_middleware = [m for m in app.user_middleware if m.cls is not CORSMiddleware]
    app.router.routes = [r for r in app.router.routes if getattr(r, "path", "") not in _DOCS]
    app.add_middleware(Guard, key=args["key"], max_body_bytes=args["max_body_bytes"], max_tokens=args["max_tokens"])
    names, page = [model["name"] for model in args["models"]], args.get("playground")
    made = json.loads(storage.read(args["runs"])) if "runs" in args else args.get("made", {})
    prices = playground.prices_of(made, page["machine_hour"], names) if page else {}
    app.add_middleware(metrics.Counted, models=names, price=prices, currency=page["currency"] if page else "")

    app.add_exception_handler(HTTPException, in_openais_form)
    app.get("/health")(health)
    app.get("/metrics", response_class=PlainTextResponse)(metrics.page)
    if page:
        app.include_router(playground.router(page, made, prices, args["max_tokens"]))
    return app


def in_openais_form(_request: Request, error: Exception) -> JSONResponse:
    """FastAPI's own errors, such as an unknown model's 404, as OpenAI's clients read them."""
    assert isinstance(error, HTTPException)
    body = {"message": str(error.detail), "type": "invalid_request_error", "code": error.status_code, "param": None}
    return JSONResponse({"error": body}, error.status_code)


def health() -> dict[str, str]:
    """That the endpoint is up; needs no key."""
    return {"status": "ok"}


_DOCS = frozenset({"/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect"})


def _config(model: Model, args: dict[str, Any]) -> LLMConfig:
    cpu = not args["on_gpu"]
    arguments = engine.arguments(model.source(), model.engine, not cpu)
    del arguments["model"]
    return LLMConfig(
        model_loading_config={"model_id": model.name, "model_source": model.source()},
        engine_kwargs=arguments,
        accelerator_config={"kind": "cpu"} if cpu else None,
        placement_group_config={"bundles": [{"CPU": 1}]} if cpu else None,
        deployment_config={
            "max_ongoing_requests": args["max_ongoing"],
            "max_queued_requests": args["max_queued"],
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

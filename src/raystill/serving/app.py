"""build: teacher, baseline and students as one Ray Serve application, OpenAI-compatible.

Ray Serve LLM's own ingress and servers do the work; what is unsafe in their defaults is set here: queues are bounded,
prompts stay out of logs, /docs and tokenisation routes are gone, CORS is for pages that the recipe names alone, and the
guard stands before everything.
`build` is also the import_path of a RayService: it takes plain values only.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import psutil
from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import PlainTextResponse
from ray import serve
from ray.llm._internal.serve.core.configs.llm_config import DiskMultiplexConfig
from ray.llm._internal.serve.core.configs.openai_api_models import to_model_metadata
from ray.llm._internal.serve.core.ingress.ingress import init
from ray.serve.handle import DeploymentHandle
from ray.serve.llm import LLMConfig, build_llm_deployment
from ray.serve.llm.deployment import LLMServer
from ray.serve.llm.ingress import make_fastapi_ingress
from starlette.middleware.base import BaseHTTPMiddleware

from raystill import artifacts, energy, engine, memory, staging, storage
from raystill.artifacts import Checkpoint
from raystill.errors import ResourceError, StorageError
from raystill.serving import keys, metrics, playground
from raystill.serving.capture import CONSENT
from raystill.serving.failures import KINDS, in_openais_form
from raystill.serving.guard import RETRY_AFTER, Bounds, Guard
from raystill.serving.ingress import Ingress
from raystill.serving.keys import KEY
from raystill.serving.routing import Routing

ROUTES = {
    "models": lambda app: app.get("/v1/models"),
    "model_data": lambda app: app.get("/v1/models/{model:path}"),
    "completions": lambda app: app.post("/v1/completions"),
    "chat": lambda app: app.post("/v1/chat/completions"),
}
COMPARE = {"compare": lambda app: app.post("/v1/compare")}
STATS = {"stats": lambda app: app.get("/v1/routing")}
CONSTRUCTIONS = 2
"""Attempts to start a replica before the deployment fails: a broken model should say so in a minute, not in twenty."""
REFUSING = 1024
"""Requests that the ingress may be refusing at one moment, beside those that it lets in: Ray Serve's own refusal is no JSON."""
LOOK_S = 0.05
"""Longest time between two looks of a waiting request for a free place: in Ray Serve's 0.5 s engines would stand idle."""


@dataclass(frozen=True)
class Weights:
    """A folder or hub id, or the address that a replica copies a model or an adapter from."""

    folder: str = ""
    url: str = ""
    fingerprint: str = ""

    def source(self) -> str:
        """What the engine loads. A copy lies under its fingerprint on every node, so an older one is never taken for it."""
        return self.folder or str(artifacts.copies() / self.fingerprint)

    def remote(self) -> Checkpoint | None:
        """What a replica copies before it starts."""
        return Checkpoint(self.url, self.fingerprint) if self.url else None


@dataclass(frozen=True)
class Model:
    """What one deployment hosts: a model by its name in requests, its engine's arguments and how many there are, further
    names of the same weights, and adapters over them by model name."""

    name: str
    engine: dict[str, Any]
    weights: Weights
    replicas: dict[str, Any]
    also: tuple[str, ...]
    adapters: dict[str, Weights]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> "Model":
        """From an entry of `build`'s models."""
        weights = {key: told[key] for key in ("folder", "url", "fingerprint") if key in told}
        adapters = {name: Weights(**where) for name, where in told.get("adapters", {}).items()}
        also = tuple(told.get("also", ()))
        return cls(told["name"], told["engine"], Weights(**weights), told["replicas"], also, adapters)

    def names(self) -> list[str]:
        """All that it answers to."""
        return [self.name, *self.also, *self.adapters]

    def idle_s(self) -> float | None:
        """Seconds after which it sleeps when nobody asks; None for a model that never does."""
        return None if self.replicas["min_replicas"] else self.replicas["downscale_delay_s"]


def newest(runs: str, name: str) -> dict[str, Any]:
    """The model of this name that a recipe's last run made; `runs` is its `<root>/runs/NAME.json`."""
    made = artifacts.load(Checkpoint, json.loads(storage.read(runs))[name])
    if made is None:
        raise StorageError(f"{runs} names a {name} that is not there; run the recipe again")
    return (
        {"url": made.place(), "fingerprint": made.fingerprint} if storage.is_s3(made.url) else {"folder": made.place()}
    )


class MeasuredServer(LLMServer):  # type: ignore[misc]
    """Ray Serve LLM's server, which fetches a remote model where it starts, takes adapters along, and tells its memory."""

    # Ray Serve awaits an __init__ that is async.
    async def __init__(  # type: ignore[misc]
        self, llm_config: LLMConfig, *, model: Model, **options: Any
    ) -> None:
        self._model = model
        for weights in (model.weights, *model.adapters.values()):
            if remote := weights.remote():
                staging.staged(remote)
        await super().__init__(llm_config, **options)
        for number, (name, adapter) in enumerate(model.adapters.items(), 1):
            place = {"local_path": adapter.source(), "max_total_tokens": None, "lora_assigned_int_id": number}
            await self.engine.resolve_lora(DiskMultiplexConfig.model_validate({"model_id": name, **place}))

    async def _run_request(self, request: Any, **options: Any) -> Any:
        if request.model in self._model.also:
            request.model = self._model.name
        return await super()._run_request(request, **options)

    async def peak_memory_bytes(self) -> int:
        """Peak resident memory of this replica and its engine's processes, summed."""
        own = psutil.Process()
        return sum(memory.peak_rss(p.pid) for p in [own, *own.children(recursive=True)])

    async def meters(self) -> dict[str, Any]:
        """`energy_j`: its machine's counters; `kv_bytes_per_token`: what one cached token takes, None where that is unknown."""
        asked = self._llm_config
        cached = memory.kv_bytes_per_token(asked.model_loading_config.model_source, asked.engine_kwargs)
        return {"energy_j": energy.counters(), "kv_bytes_per_token": cached}


def build(args: dict[str, Any]) -> serve.Application:
    """The application.

    args: models, each {name, engine, replicas} with folder or url and fingerprint, and, where an engine is shared, also (names)
    and adapters (places by name); on_gpu, cpus, max_ongoing, max_queued, max_body_bytes, max_tokens, timeout_s, allow_origins,
    keys_file; surge_percent, how many replicas of a model that changes start beside those that answer; finish_s, the time that
    one which goes may take for answers it has begun; and key, None where only keys_file's open. A RayService's args lie in its
    manifest, so they hold no key, which the pods' environment does, and instead of places `runs`, which names them. With
    `playground`, which is pipeline.playground's, there is a page; it finds the run's artifacts in `made` or, again, `runs`.
    `routing` is pipeline.routing's, empty where a request gets the model that it names and nothing else.
    Raises ResourceError when there is no key where one is needed, StorageError for a model that is gone.

    Deployed over a running one it changes that: what stays as it was is left alone.
    """
    if "key" not in args and not os.environ.get(KEY) and not args["keys_file"]:
        raise ResourceError(f"this endpoint is open to other machines and has no key; set {KEY} in its pods")
    args = {"key": os.environ.get(KEY), **args}
    models = [Model.of({**m, **(newest(args["runs"], m["name"]) if "runs" in args else {})}) for m in args["models"]]
    shared = {key: value for key, value in args.items() if key not in ("models", "key")}
    configs = {model.name: _config(model, args) for model in models}
    servers = {
        model.name: _pinned(
            build_llm_deployment(configs[model.name], deployment_cls=MeasuredServer, bind_kwargs={"model": model}),
            {**shared, "model": asdict(model)},
        )
        for model in models
    }
    hosts = {name: model for model in models for name in model.names()}
    idle_s = {name: idle for name, model in hosts.items() if (idle := model.idle_s()) is not None}
    routing = _routing(args, hosts)
    app = _fastapi(args, [*hosts, *([routing.public_name] if routing.public_name else [])])
    routes = {**ROUTES, **(COMPARE if routing.compare else {}), **(STATS if args.get("routing") else {})}
    ingress = make_fastapi_ingress(Ingress, endpoint_map=routes, app=app)
    options = {
        "num_replicas": 1,
        "max_ongoing_requests": _in_flight(args) + REFUSING,
        "max_queued_requests": args["max_queued"],
        "backpressure_config": {"retry_after_s": float(RETRY_AFTER)},
        "ray_actor_options": {"num_cpus": 0},
        **_changing(args),
    }
    bound = serve.deployment(ingress, name="ingress", **options).bind(
        llm_deployments={name: servers[model.name] for name, model in hosts.items()},
        model_cards={name: to_model_metadata(name, configs[model.name]) for name, model in hosts.items()},
        idle_s=idle_s,
        routing=routing,
    )
    return _pinned(bound, {**shared, "hosts": {name: model.name for name, model in hosts.items()}, "idle_s": idle_s})


def _pinned(application: serve.Application, decides: Mapping[str, Any]) -> serve.Application:
    """The deployment under a version that what decides it gives: Ray Serve makes one up, and restarts all at each deploy."""
    version = artifacts.fingerprint("deployment", 1, decides, {})
    return serve.Application(application._bound_deployment.options(version=version, _internal=True))


def _changing(args: Mapping[str, Any]) -> dict[str, Any]:
    """Options by which no request fails at a deployment that changes: new replicas start beside the old ones, which finish."""
    return {"max_surge_percent": args["surge_percent"], "graceful_shutdown_timeout_s": args["finish_s"]}


def server_handle(model: str, app: str) -> DeploymentHandle:
    """The handle of one model's server in a running application."""
    return serve.get_deployment_handle(f"{MeasuredServer.__name__}:{model}", app)


def _in_flight(args: dict[str, Any]) -> int:
    """Requests that may run or wait in all models together."""
    most: int = (args["max_ongoing"] + args["max_queued"]) * len(args["models"])
    return most


def _fastapi(args: dict[str, Any], names: Sequence[str]) -> FastAPI:
    """The application without its models' routes; `names` is what requests may ask for."""
    app: FastAPI = init()  # Ray Serve LLM's own: request ids, metrics
    # Its errors hold tracebacks, and its CORS lets every page in.
    app.user_middleware = [m for m in app.user_middleware if m.cls not in (CORSMiddleware, BaseHTTPMiddleware)]
    app.router.routes = [r for r in app.router.routes if getattr(r, "path", "") not in _DOCS]
    for kind in (*KINDS, Exception):
        app.add_exception_handler(kind, in_openais_form)
    bounds = Bounds(args["max_body_bytes"], args["max_tokens"], args["timeout_s"], _in_flight(args))
    app.add_middleware(Guard, keys=keys.known(args["key"], args["keys_file"]), bounds=bounds)
    if args["allow_origins"]:
        told = ["Authorization", "Content-Type", CONSENT]
        app.add_middleware(CORSMiddleware, allow_origins=args["allow_origins"], allow_methods=["*"], allow_headers=told)
    page = args.get("playground")
    made = _made(args)
    prices = playground.prices_of(made, page["machine_hour"], names) if page else {}
    app.add_middleware(metrics.Counted, models=names, price=prices, currency=page["currency"] if page else "")
    app.get("/health")(health)
    app.get("/metrics", response_class=PlainTextResponse)(metrics.page)
    if page:
        app.include_router(playground.router(page, made, prices, args["max_tokens"]))
    return app


def _made(args: dict[str, Any]) -> dict[str, str]:
    """The run's artifacts by name."""
    made: dict[str, str] = json.loads(storage.read(args["runs"])) if "runs" in args else args.get("made", {})
    return made


def _routing(args: dict[str, Any], hosts: Mapping[str, Model]) -> Routing:
    told = args.get("routing")
    return Routing.of(told, hosts, _made(args)["prepare"]) if told else Routing()


def health() -> dict[str, str]:
    """That the endpoint is up; needs no key."""
    return {"status": "ok"}


_DOCS = frozenset({"/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect"})


def _config(model: Model, args: dict[str, Any]) -> LLMConfig:
    cpu = not args["on_gpu"]
    source = model.weights.source()
    arguments = engine.arguments(source, model.engine, not cpu)
    del arguments["model"]
    arguments["override_generation_config"] = {
        "max_new_tokens": args["max_tokens"], **arguments.get("override_generation_config", {}),
    }  # fmt: skip
    return LLMConfig(
        model_loading_config={"model_id": model.name, "model_source": source},
        engine_kwargs=arguments,
        accelerator_config={"kind": "cpu"} if cpu else None,
        placement_group_config={"bundles": [{"CPU": 1}]} if cpu else None,
        deployment_config={
            "max_ongoing_requests": args["max_ongoing"],
            "max_queued_requests": args["max_queued"],
            "request_router_config": {"max_backoff_s": LOOK_S},
            "max_constructor_retry_count": CONSTRUCTIONS,
            "health_check_period_s": 10,
            "health_check_timeout_s": 120,
            **_replicas(model.replicas, args["max_ongoing"]),
            **_changing(args),
            "ray_actor_options": {"num_cpus": 0 if cpu else 1},
        },
        runtime_env={
            "env_vars": engine.environment(args["cpus"], not cpu) | {"RAYLLM_ENABLE_REQUEST_PROMPT_LOGS": "0"}
        },
        experimental_configs={"stream_batching_interval_ms": 0},
        log_engine_metrics=True,
    )


def _replicas(asked: Mapping[str, Any], max_ongoing: int) -> dict[str, Any]:
    """A number of replicas, or the bounds between which Ray Serve chooses one."""
    if asked["min_replicas"] == asked["max_replicas"]:
        return {"num_replicas": asked["min_replicas"], "autoscaling_config": None}
    target = asked["target_ongoing_requests"] or 0.75 * max_ongoing
    return {"autoscaling_config": {**asked, "target_ongoing_requests": target}}

"""A recipe as Kubernetes documents: the driver's Job, a RayJob per stage that needs a cluster, the RayService.

RayJobs are in HTTPMode: the operator posts the stage to the head and polls it, so there is no submitter pod whose lost log
stream would fail a stage that runs. A lost head is posted the same stage again, which goes on from what is committed.
"""

import hashlib
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import yaml

from raystill import pipeline, storage
from raystill.launch import pods, sizes
from raystill.launch.pods import Doc
from raystill.launch.sizes import Group, Stage
from raystill.recipe import Recipe
from raystill.stages.serve import LATE_S, limits

LONGEST_NAME = 47
"""Characters that KubeRay leaves a RayJob's or RayService's name, whose pods' names go on from there."""
KEPT_S = 600
"""A finished stage's cluster stays so long for who wants to look."""
DRIVER_KEPT_S = 86_400
ENDS = [1, 2, 3, 4]
"""Exit codes of a failed stage, a wrong recipe, wrong data and too small a cluster; a store may be back in a minute."""
DRIVER_STARTS = 6
"""What is committed stays, so a driver that crashed goes on where it was."""
PURPOSE = {
    "ConfigMap": "What every pod reads. `submit` creates this and the Job; the rest comes of itself or is named below.",
    "Job": "The driver: prepares, curates and reports, and creates a RayJob for each stage below when its turn comes.",
    "RayJob": "Created by the driver, and gone some minutes after its end.",
    "RayService": "The students as an endpoint. `submit --serve` creates it, when the report says that they may be served.",
}
IDLE_S = 300
"""An engine takes minutes to load: a replica is let go only after five idle ones."""


def render(recipe: Recipe, recipe_text: str) -> list[Doc]:
    """All documents of a run, in the order in which they are to be created.

    Raises RecipeError for a model that no nodes of this type hold.
    """
    compute = yaml.safe_dump(sizes.fitted(recipe).model_dump(mode="json", exclude_defaults=True), sort_keys=False)
    config = config_map(recipe, {"recipe.yaml": recipe_text, "compute.yaml": compute})
    name = config["metadata"]["name"]
    jobs = [ray_job(recipe, stage, name) for stage in sizes.stages(recipe)]
    return [config, driver(recipe, name), *jobs, ray_service(recipe, name)]


def as_yaml(documents: list[Doc]) -> str:
    """One YAML stream of several documents, each with a line on what it is for."""
    texts = (yaml.dump(doc, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True) for doc in documents)
    return "".join(f"---\n# {PURPOSE[doc['kind']]}\n{text}" for doc, text in zip(documents, texts, strict=True))


def job_name(recipe: Recipe, stage: str) -> str:
    """The name of a stage's RayJob."""
    return f"{recipe.name}-{stage}"


def config_map(recipe: Recipe, files: Mapping[str, str]) -> Doc:
    """What every pod reads, under a name that changes with it: a recipe edited meanwhile cannot reach a run that goes on."""
    content = hashlib.sha256("\0".join(files.values()).encode()).hexdigest()[:12]
    about = _metadata(recipe, f"{recipe.name}-{content}", "recipe")
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": about, "immutable": True, "data": dict(files)}


def driver(recipe: Recipe, config: str) -> Doc:
    """The Job of the driver. A node that went is no failure, and what a person must mend is not tried again."""
    asked, hours = recipe.compute.kubernetes, recipe.compute.kubernetes.hours
    all_hours = sum(getattr(hours, stage.name) for stage in sizes.stages(recipe)) * (1 + asked.retries)
    rules = [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": {"containerName": "driver", "operator": "In", "values": ENDS}},
    ]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(recipe, job_name(recipe, "driver"), "driver"),
        "spec": {
            "backoffLimit": DRIVER_STARTS,
            "activeDeadlineSeconds": _seconds(all_hours),
            "ttlSecondsAfterFinished": DRIVER_KEPT_S,
            "podFailurePolicy": {"rules": rules},
            "template": pods.driver(asked, sizes.node_of(recipe), _labels(recipe, "driver"), config, command("drive")),
        },
    }


def ray_job(recipe: Recipe, stage: Stage, config: str) -> Doc:
    """One stage with its own cluster, deadline and retries; gone ten minutes after its end."""
    asked = recipe.compute.kubernetes
    about = _metadata(recipe, job_name(recipe, stage.name), stage.name)
    if asked.queue:
        about["labels"]["kueue.x-k8s.io/queue-name"] = asked.queue
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": about,
        "spec": {
            "submissionMode": "HTTPMode",
            # Spliced into a shell by other modes, so words alone: no quotes, no secrets.
            "entrypoint": " ".join([*command("run"), "--only", stage.name]),
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": KEPT_S,
            "backoffLimit": asked.retries,
            "activeDeadlineSeconds": _seconds(getattr(asked.hours, stage.name)),
            "preRunningDeadlineSeconds": 60 * asked.pending_minutes,
            "rayClusterSpec": _cluster(recipe, stage, config),
        },
    }


def ray_service(recipe: Recipe, config: str) -> Doc:
    """The students behind one endpoint, for as long as it is there."""
    asked, serve = recipe.compute.kubernetes, recipe.serve
    about = _metadata(recipe, recipe.name, "serve")
    # KubeRay calls an application that loads large weights broken before they are there.
    about["annotations"] = {"ray.io/initializing-timeout": f"{serve.start_timeout_s:.0f}s"}
    cluster = _cluster(recipe, Stage("serve", tuple(sizes.served(recipe))), config)
    if asked.redis:
        password = {"secretKeyRef": {"name": "raystill-redis", "key": "password"}}
        cluster["gcsFaultToleranceOptions"] = {
            "redisAddress": asked.redis,
            "redisPassword": {"valueFrom": password},
        }
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayService",
        "metadata": about,
        "spec": {
            "upgradeStrategy": {"type": asked.upgrade},
            "excludeHeadPodFromServeSvc": True,
            "serveConfigV2": yaml.safe_dump(_application(recipe), sort_keys=False, width=120),
            "rayClusterConfig": cluster,
        },
    }


def command(verb: str) -> list[str]:
    """What driver and stages run."""
    return ["raystill", verb, f"{pods.MOUNT}/recipe.yaml", "--compute", f"{pods.MOUNT}/compute.yaml"]


def _application(recipe: Recipe) -> Doc:
    serve = recipe.serve
    args = {
        "runs": storage.join(recipe.root, "runs", f"{recipe.name}.json"),
        "models": [
            {"name": name, "engine": serve.engine, "replicas": serve.replicas_of(name).model_dump()}
            for name in recipe.all_students()
        ],
        "on_gpu": True,
        "cpus": sizes.node_of(recipe).cpus_per_gpu,
        # More would wait for GPUs that there need not be; NewCluster brings its own.
        "surge_percent": 0,
        "finish_s": serve.timeout_s,
        **limits(serve),
        "playground": pipeline.playground(recipe, recipe.all_students()),
        "routing": pipeline.routing(recipe, recipe.all_students()),
    }
    application = {"name": "raystill", "route_prefix": "/", "import_path": "raystill.serving.app:build", "args": args}
    timeout_s = serve.timeout_s + LATE_S
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": pods.PORTS["serve"], "request_timeout_s": timeout_s},
        "logging_config": {"enable_access_log": False},
        "applications": [application],
    }


def _cluster(recipe: Recipe, stage: Stage, config: str) -> Doc:
    """A RayCluster's spec. Every key whose default would change what happens is written out."""
    asked, node = recipe.compute.kubernetes, sizes.node_of(recipe)
    labels = _labels(recipe, stage.name)
    elastic = any(group.elastic for group in stage.groups)
    spec: Doc = {"rayVersion": version("ray"), "authOptions": {"mode": "token"}, "enableInTreeAutoscaling": elastic}
    if elastic:
        spec["autoscalerOptions"] = {
            "version": "v2",
            "idleTimeoutSeconds": IDLE_S,
            "resources": {side: {"cpu": "1", "memory": "2Gi"} for side in ("requests", "limits")},
            "securityContext": pods.RESTRICTED,
        }
    teachers = stage.name in ("generate", "score")
    spec["headGroupSpec"] = pods.head(asked, stage.name, node, labels, config, grows=elastic)
    spec["workerGroupSpecs"] = [
        pods.worker(asked, stage.name, node, part, labels, config, spot=spot) | priority
        for group in stage.groups
        for part, spot, priority in _markets(group, bool(asked.spot) and teachers)
    ]
    return spec


def _markets(group: Group, spot: bool) -> list[tuple[Group, bool, Doc]]:
    """A group on its nodes. An elastic one on spot nodes keeps its least replicas on demand, and grows on spot first."""
    if not (spot and group.elastic):
        return [(group, spot, {})]
    more = Group(f"{group.name}-spot", group.gpus, group.hosts, 0, group.most - group.least)
    return [(group, False, {"priority": 0}), (more, True, {"priority": 10})]


def _metadata(recipe: Recipe, name: str, stage: str) -> Doc:
    return {"name": name, "namespace": recipe.compute.kubernetes.namespace, "labels": _labels(recipe, stage)}


def _labels(recipe: Recipe, stage: str) -> Doc:
    """What network policies, monitors and people find pods by: RayClusters of RayJobs have names of their own."""
    return {"raystill.io/run": recipe.name, "raystill.io/stage": stage}


def _seconds(hours: float) -> int:
    return max(1, round(3600 * hours))


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, and equal parts written out instead of as YAML's anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)

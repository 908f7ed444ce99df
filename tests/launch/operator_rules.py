"""What KubeRay v1.7.0's operator refuses after the API server has let a document in: its validation, in our words.

A default install: the feature gates that are alpha are off.
"""

import re
from collections.abc import Iterator
from typing import Any

import yaml

Doc = dict[str, Any]
LONGEST = {"RayCluster": 53, "RayJob": 47, "RayService": 47}
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
QUALIFIED = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
UPGRADES = ("None", "NewCluster", "NewClusterWithIncrementalUpgrade")
GATED = ("networkPolicy", "tlsOptions", "historyServerOptions")
ORDER = ("DeleteWorkers", "DeleteCluster", "DeleteSelf")
DURATION = re.compile(r"(\d+(\.\d+)?(h|m|s|ms))+")


def complaints(doc: Doc) -> list[str]:
    """Everything the operator refuses."""
    return list(_metadata(doc)) + list({"RayJob": _job, "RayService": _service}[doc["kind"]](doc["spec"], doc))


def _metadata(doc: Doc) -> Iterator[str]:
    name = doc["metadata"]["name"]
    if len(name) > LONGEST[doc["kind"]]:
        yield f"name longer than {LONGEST[doc['kind']]}"
    if not NAME.fullmatch(name) or len(name) > 63:
        yield "name is no DNS-1035 label"


def _job(spec: Doc, doc: Doc) -> Iterator[str]:
    shutdown, selector = spec.get("shutdownAfterJobFinishes", False), spec.get("clusterSelector")
    if spec.get("submissionMode", "K8sJobMode") not in MODES:
        yield "unknown submissionMode"
    if spec.get("suspend") and not shutdown:
        yield "suspend needs shutdownAfterJobFinishes"
    if spec.get("suspend") and selector:
        yield "suspend and clusterSelector"
    if spec.get("ttlSecondsAfterFinished", 0) < 0:
        yield "ttlSecondsAfterFinished is negative"
    if spec.get("ttlSecondsAfterFinished", 0) > 0 and not shutdown:
        yield "ttlSecondsAfterFinished needs shutdownAfterJobFinishes"
    if "rayClusterSpec" not in spec and not selector:
        yield "neither rayClusterSpec nor clusterSelector"
    if selector and not selector.get("ray.io/cluster"):
        yield "clusterSelector names no cluster"
    mode = spec.get("submissionMode", "K8sJobMode")
    if mode == "InteractiveMode" and spec.get("backoffLimit", 0) > 0:
        yield "InteractiveMode has no retries"
    if mode == "SidecarMode" and ({"submitterPodTemplate", "submitterConfig", "clusterSelector"} & spec.keys()):
        yield "SidecarMode takes no submitter and no clusterSelector"
    if spec.get("backoffLimit", 0) < 0:
        yield "backoffLimit is negative"
    if spec.get("activeDeadlineSeconds", 1) <= 0:
        yield "activeDeadlineSeconds is not positive"
    try:
        if not isinstance(yaml.safe_load(spec.get("runtimeEnvYAML", "{}")), dict):
            yield "runtimeEnvYAML is no map"
    except yaml.YAMLError:
        yield "runtimeEnvYAML is no YAML"
    yield from _deletion(spec, shutdown)
    if "rayClusterSpec" in spec:
        yield from _cluster(spec["rayClusterSpec"], doc)


def _deletion(spec: Doc, shutdown: bool) -> Iterator[str]:
    if "deletionStrategy" not in spec:
        return
    strategy = spec["deletionStrategy"]
    rules, legacy = strategy.get("deletionRules", []), {"onSuccess", "onFailure"} & strategy.keys()
    if rules and shutdown:
        yield "deletionRules and shutdownAfterJobFinishes"
    if rules and legacy:
        yield "deletionRules and onSuccess/onFailure"
    if not rules and legacy != {"onSuccess", "onFailure"}:
        yield "deletionStrategy says nothing"
    seen: dict[tuple[Any, Any], int] = {}
    for rule in rules:
        condition, policy = rule["condition"], rule["policy"]
        status, ttl = condition.get("jobStatus", condition.get("jobDeploymentStatus")), condition.get("ttlSeconds", 0)
        if ttl < 0:
            yield "ttlSeconds is negative"
        if (status, policy) in seen:
            yield "a deletion rule twice"
        if policy == "DeleteWorkers" and spec.get("rayClusterSpec", {}).get("enableInTreeAutoscaling"):
            yield "DeleteWorkers with the autoscaler"
        seen[status, policy] = ttl
    for status in {status for status, _ in seen}:
        ttls = [seen[status, policy] for policy in ORDER if (status, policy) in seen]
        if ttls != sorted(ttls):
            yield "deletion rules out of order"


def _service(spec: Doc, doc: Doc) -> Iterator[str]:
    cluster = spec["rayClusterConfig"]
    yield from _cluster(cluster, doc)
    timeout = doc["metadata"].get("annotations", {}).get("ray.io/initializing-timeout")
    if timeout and (timeout in ("0", "0s") or not (DURATION.fullmatch(timeout) or timeout.isdigit())):
        yield "initializing-timeout is no duration"
    if cluster["headGroupSpec"].get("headService", {}).get("metadata", {}).get("name"):
        yield "headService has a name"
    upgrade = spec.get("upgradeStrategy", {})
    if upgrade.get("type", "NewCluster") not in UPGRADES:
        yield "unknown upgradeStrategy"
    if spec.get("rayClusterDeletionDelaySeconds", 0) < 0:
        yield "rayClusterDeletionDelaySeconds is negative"
    if upgrade.get("type") == UPGRADES[2]:
        options = upgrade.get("clusterUpgradeOptions", {})
        if not cluster.get("enableInTreeAutoscaling") or not options.get("gatewayClassName"):
            yield "an incremental upgrade needs the autoscaler and a gateway"


def _cluster(spec: Doc, doc: Doc) -> Iterator[str]:
    head, workers = spec["headGroupSpec"], spec.get("workerGroupSpecs", [])
    for key in GATED:
        if key in spec:
            yield f"{key} is behind a feature gate"
    groups = [("head", head), *((group["groupName"], group) for group in workers)]
    names = [name for name, _ in groups]
    if len(set(names)) != len(names):
        yield "two groups of one name"
    for name, group in groups:
        yield from _group(name, group)
    yield from _redis(spec, head, doc)
    scaled = bool(spec.get("enableInTreeAutoscaling"))
    options = spec.get("autoscalerOptions", {})
    set_by_env = _env(head).get("RAY_enable_autoscaler_v2")
    if not scaled and set_by_env in ("1", "true"):
        yield "RAY_enable_autoscaler_v2 without the autoscaler"
    if scaled and options.get("version") and set_by_env is not None:
        yield "the autoscaler's version twice"
    for name, group in groups:
        if scaled and group.get("suspend"):
            yield f"{name}: suspended with the autoscaler"
        if (
            scaled
            and options.get("version") == "v2"
            and group["template"]["spec"].get("restartPolicy", "Never") != "Never"
        ):
            yield f"{name}: restartPolicy with autoscaler v2"
        if {"idleTimeoutSeconds", "priority"} & group.keys() and not (scaled and options.get("version") == "v2"):
            yield f"{name}: idleTimeoutSeconds and priority need autoscaler v2"
        if group.get("priority") and _version(spec) < (2, 56):
            yield f"{name}: priority needs Ray 2.56"
    for group in workers:
        if not 0 <= group.get("minReplicas", 0) <= group.get("maxReplicas", 2**31 - 1):
            yield f"{group['groupName']}: minReplicas above maxReplicas"
        if group.get("numOfHosts", 1) < 1:
            yield f"{group['groupName']}: numOfHosts below 1"
    auth = spec.get("authOptions", {})
    if auth.get("mode") == "token" and _version(spec) < (2, 52):
        yield "token auth needs rayVersion 2.52"
    if auth.get("enableK8sTokenAuth"):
        yield "enableK8sTokenAuth is refused here"


def _group(name: str, group: Doc) -> Iterator[str]:
    params = group.get("rayStartParams", {})
    if not group["template"]["spec"].get("containers"):
        yield f"{name}: no container"
    if group.get("resources") and {"num-cpus", "num-gpus", "memory", "resources"} & params.keys():
        yield f"{name}: resources in two places"
    if "labels" in params:
        yield f"{name}: labels in rayStartParams"
    for key, value in group.get("labels", {}).items():
        if not QUALIFIED.fullmatch(key) or not LABEL.fullmatch(value):
            yield f"{name}: no label {key}={value}"


def _redis(spec: Doc, head: Doc, doc: Doc) -> Iterator[str]:
    environment, params = _env(head), head.get("rayStartParams", {})
    options = spec.get("gcsFaultToleranceOptions")
    annotations = doc["metadata"].get("annotations", {})
    if options is None and "RAY_REDIS_ADDRESS" in environment and annotations.get("ray.io/ft-enabled") != "true":
        yield "RAY_REDIS_ADDRESS without gcsFaultToleranceOptions"
    if options is not None:
        if params.get("redis-password") or {"REDIS_PASSWORD", "RAY_REDIS_ADDRESS"} & environment.keys():
            yield "Redis in two places"
        if {"ray.io/ft-enabled", "ray.io/external-storage-namespace"} & annotations.keys():
            yield "gcsFaultToleranceOptions and its old annotations"
        if options.get("backend") == "rocksdb":
            yield "rocksdb is behind a feature gate"
    if params.get("redis-username") or "REDIS_USERNAME" in environment:
        yield "redis-username outside gcsFaultToleranceOptions"


def _env(group: Doc) -> dict[str, Any]:
    containers = group["template"]["spec"].get("containers") or [{}]
    return {entry["name"]: entry.get("value") for entry in containers[0].get("env", [])}


def _version(spec: Doc) -> tuple[int, ...]:
    found = re.match(r"(\d+)\.(\d+)", spec.get("rayVersion", ""))
    return tuple(map(int, found.groups())) if found else (0, 0)

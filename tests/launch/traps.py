"""What nobody refuses and what goes wrong later: traps of Ray on Kubernetes, one function each."""

import re
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import yaml

Doc = dict[str, Any]
GIB = {"Gi": 1.0, "G": 1e9 / 2**30, "Mi": 1 / 1024}
SECRETIVE = re.compile(r"KEY|TOKEN|SECRET|PASSWORD")
FORBIDDEN = {"hostNetwork", "hostPID", "hostIPC"}
VOLUMES = {"configMap", "emptyDir", "ephemeral", "secret", "projected", "persistentVolumeClaim", "downwardAPI"}


def complaints(doc: Doc) -> list[str]:
    """Every trap that a RayJob, RayService or driver Job walks into."""
    return [said for trap in (TRAPS if "ray.io" in doc["apiVersion"] else POD_TRAPS) for said in trap(doc)]


def cluster(doc: Doc) -> Doc:
    """Its RayCluster's spec."""
    found: Doc = doc["spec"].get("rayClusterSpec") or doc["spec"]["rayClusterConfig"]
    return found


def templates(doc: Doc) -> Iterator[tuple[str, Doc]]:
    """Its pod templates by group."""
    if doc["kind"] == "Job":
        yield "driver", doc["spec"]["template"]
        return
    yield "head", cluster(doc)["headGroupSpec"]["template"]
    for group in cluster(doc).get("workerGroupSpecs", []):
        yield group["groupName"], group["template"]


def gib(quantity: str) -> float:
    """A quantity of bytes in GiB."""
    number, unit = re.fullmatch(r"(\d+)(\w*)", quantity).groups()  # type: ignore[union-attr]
    return float(number) * GIB.get(unit, 2**-30)


def restricted(doc: Doc) -> Iterator[str]:
    """Pod Security "restricted" refuses the pod, and nothing starts."""
    for name, template in templates(doc):
        spec = template["spec"]
        pod = spec.get("securityContext", {})
        if pod.get("runAsNonRoot") is not True or pod.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{name}: not restricted"
        if FORBIDDEN & {key for key, value in spec.items() if value}:
            yield f"{name}: host namespaces"
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            own = container.get("securityContext", {})
            drops = own.get("capabilities", {})
            if (
                own.get("allowPrivilegeEscalation") is not False
                or drops.get("drop") != ["ALL"]
                or own.get("privileged")
            ):
                yield f"{name}: {container['name']} not restricted"
            if set(drops.get("add", [])) - {"NET_BIND_SERVICE"}:
                yield f"{name}: {container['name']} adds capabilities"
        yield from (f"{name}: volume {v['name']}" for v in spec["volumes"] if not VOLUMES & v.keys())


def scaler_restricted(doc: Doc) -> Iterator[str]:
    """The autoscaler's container is the operator's, with our security context."""
    spec = cluster(doc)
    own = spec.get("autoscalerOptions", {}).get("securityContext", {})
    if spec.get("enableInTreeAutoscaling") and own.get("allowPrivilegeEscalation") is not False:
        yield "the autoscaler is not restricted"


def equal_limits(doc: Doc) -> Iterator[str]:
    """A pod that borrows memory is killed first, and GPUs cannot be borrowed; without sizes the autoscaler fails."""
    for name, template in templates(doc):
        for container in template["spec"]["containers"]:
            asked = container.get("resources", {})
            if asked.get("requests") != asked.get("limits") or not {"cpu", "memory"} <= asked.get("limits", {}).keys():
                yield f"{name}: limits are not requests"


def digests(doc: Doc) -> Iterator[str]:
    """A tag may mean another image on the next node."""
    for name, template in templates(doc):
        for container in template["spec"]["containers"]:
            if not re.search(r"@sha256:[0-9a-f]{64}$", container["image"]):
                yield f"{name}: image without digest"


def no_secrets(doc: Doc) -> Iterator[str]:
    """Manifests, entrypoints and runtime environments are shown to everybody who may look."""
    for name, template in templates(doc):
        for container in template["spec"]["containers"]:
            yield from (
                f"{name}: {e['name']} in plain"
                for e in container["env"]
                if SECRETIVE.search(e["name"]) and "value" in e
            )
    if "runtimeEnvYAML" in doc["spec"]:
        yield "runtimeEnvYAML"
    if not re.fullmatch(r"[\w./ -]*", doc["spec"].get("entrypoint", "")):
        yield "the entrypoint is more than words"
    served = yaml.safe_load(doc["spec"].get("serveConfigV2", "{}"))
    if any("key" in app.get("args", {}) for app in served.get("applications", [])):
        yield "the endpoint's key in plain"


def grace(doc: Doc) -> Iterator[str]:
    """Ray drains for as long as Kubernetes gives by default, so SIGKILL wins."""
    for name, template in templates(doc):
        drains = [
            float(e["value"]) for c in template["spec"]["containers"] for e in c["env"] if "DRAIN_TIMEOUT" in e["name"]
        ]
        given = template["spec"].get("terminationGracePeriodSeconds", 30)
        if given < 120 or (name != "driver" and (not drains or given < drains[0] + 20)):
            yield f"{name}: grace {given} s"


def shared_memory(doc: Doc) -> Iterator[str]:
    """/dev/shm of 64 MB stalls NCCL; one without a bound fills the pod; a larger object store spills to disk."""
    groups = {"head": cluster(doc)["headGroupSpec"]} | {
        g["groupName"]: g for g in cluster(doc).get("workerGroupSpecs", [])
    }
    for name, template in templates(doc):
        spec = template["spec"]
        sizes = [
            gib(v["emptyDir"].get("sizeLimit", "0"))
            for v in spec["volumes"]
            if v.get("emptyDir", {}).get("medium") == "Memory"
        ]
        mounted = any(m["mountPath"] == "/dev/shm" for m in spec["containers"][0]["volumeMounts"])
        store = int(groups[name]["rayStartParams"].get("object-store-memory", 2**60)) / 2**30
        memory = gib(spec["containers"][0]["resources"]["limits"]["memory"])
        if not mounted or not sizes or not store < sizes[0] < memory / 2:
            yield f"{name}: /dev/shm"


def bare_head(doc: Doc) -> Iterator[str]:
    """Work on the head takes the cluster with it."""
    head = cluster(doc)["headGroupSpec"]
    limits = head["template"]["spec"]["containers"][0]["resources"]["limits"]
    if head["rayStartParams"].get("num-cpus") != "0" or any("gpu" in key for key in limits):
        yield "work on the head"


def same_ray(doc: Doc) -> Iterator[str]:
    """Without rayVersion, KubeRay falls back to old probes; without a mode there is no authentication at all."""
    if cluster(doc).get("rayVersion") != version("ray"):
        yield "rayVersion"
    if cluster(doc).get("authOptions", {}).get("mode") != "token":
        yield "no token"


def sizes_said(doc: Doc) -> Iterator[str]:
    """The default most is two thousand million; a fixed size under the autoscaler is no size."""
    for group in cluster(doc).get("workerGroupSpecs", []):
        if not {"replicas", "minReplicas", "maxReplicas", "numOfHosts"} <= group.keys():
            yield f"{group['groupName']}: size not said"
    stage = doc["metadata"]["labels"]["raystill.io/stage"]
    fixed = all(g["minReplicas"] == g.get("replicas") == g.get("maxReplicas") for g in cluster(doc)["workerGroupSpecs"])
    if stage not in ("generate", "score", "serve") and (not fixed or cluster(doc).get("enableInTreeAutoscaling")):
        yield f"{stage} is not whole from its start"
    if fixed == bool(cluster(doc).get("enableInTreeAutoscaling")):
        yield "the autoscaler without room, or room without the autoscaler"


def autoscaler_version(doc: Doc) -> Iterator[str]:
    """KubeRay looks at this field alone, whatever Ray's own default is."""
    if cluster(doc).get("enableInTreeAutoscaling") and cluster(doc).get("autoscalerOptions", {}).get("version") != "v2":
        yield "autoscaler version not said"


def market(doc: Doc) -> Iterator[str]:
    """A trainer that loses a node loses its steps since the last checkpoint; only teachers lose no more than a unit."""
    for group in cluster(doc).get("workerGroupSpecs", []):
        spot = group["labels"].get("ray.io/market-type") == "spot"
        spec = group["template"]["spec"]
        if spot and doc["metadata"]["labels"]["raystill.io/stage"] not in ("generate", "score"):
            yield f"{group['groupName']} on spot"
        if spot != (spec.get("priorityClassName") == "raystill-spot"):
            yield f"{group['groupName']}: priority and market differ"
        kept = "safe-to-evict" in str(group["template"]["metadata"].get("annotations"))
        if spot == kept:
            yield f"{group['groupName']}: eviction and market differ"


def ends(doc: Doc) -> Iterator[str]:
    """A stage that hangs, waits for GPUs for ever, or leaves its cluster behind."""
    if doc["kind"] != "RayJob":
        return
    spec = doc["spec"]
    if spec.get("submissionMode") != "HTTPMode":
        yield "a submitter whose log stream can fail the stage"
    if not spec.get("shutdownAfterJobFinishes"):
        yield "the cluster stays"
    yield from (
        f"no {k}" for k in ("activeDeadlineSeconds", "preRunningDeadlineSeconds", "backoffLimit") if not spec.get(k)
    )


def queued(doc: Doc) -> Iterator[str]:
    """What Kueue admits: whole jobs that free what they hold, of at most 18 pod sets."""
    if "kueue.x-k8s.io/queue-name" in doc["metadata"]["labels"] and doc["kind"] == "RayJob":
        spec = doc["spec"]
        if (
            not spec.get("shutdownAfterJobFinishes")
            or cluster(doc).get("enableInTreeAutoscaling")
            or "clusterSelector" in spec
        ):
            yield "Kueue never admits it"
        if len(cluster(doc).get("workerGroupSpecs", [])) > 17:
            yield "too many groups for Kueue"


def own_account(doc: Doc) -> Iterator[str]:
    """One account per stage; a token for Kubernetes' API only where something asks it."""
    stage = doc["metadata"]["labels"]["raystill.io/stage"]
    for name, template in templates(doc):
        spec = template["spec"]
        if not spec.get("serviceAccountName", "").endswith(f"-{stage}"):
            yield f"{name}: another stage's account"
        asks = name == "driver" or (name == "head" and bool(cluster(doc).get("enableInTreeAutoscaling")))
        if spec.get("automountServiceAccountToken") is not asks:
            yield f"{name}: token of the API"


def metrics(doc: Doc) -> Iterator[str]:
    """PodMonitors find a head's further metrics by the names of its ports, which exist only when declared."""
    ports = {p["name"] for p in cluster(doc)["headGroupSpec"]["template"]["spec"]["containers"][0]["ports"]}
    if not {"as-metrics", "dash-metrics", "dashboard", "gcs-server"} <= ports:
        yield "the head's ports"


def upgrades(doc: Doc) -> Iterator[str]:
    """KubeRay's default starts a second cluster, whose GPUs need not exist, and calls slow loading a failure."""
    if doc["kind"] == "RayService":
        if doc["spec"].get("upgradeStrategy", {}).get("type") != "None":
            yield "an upgrade takes twice the GPUs"
        if "ray.io/initializing-timeout" not in doc["metadata"].get("annotations", {}):
            yield "no initializing-timeout"


def fault_tolerant(doc: Doc) -> Iterator[str]:
    """Serving is the one use of GCS fault tolerance: a job's driver dies with its head all the same."""
    if doc["kind"] == "RayJob" and "gcsFaultToleranceOptions" in cluster(doc):
        yield "fault tolerance of a job"
    password = cluster(doc).get("gcsFaultToleranceOptions", {}).get("redisPassword", {})
    if "value" in password:
        yield "Redis' password in plain"


Trap = Callable[[Doc], Iterator[str]]
POD_TRAPS: list[Trap] = [restricted, equal_limits, digests, no_secrets, grace, own_account]
TRAPS: list[Trap] = [
    *POD_TRAPS,
    scaler_restricted,
    shared_memory,
    bare_head,
    same_ray,
    sizes_said,
    autoscaler_version,
    market,
    ends,
    queued,
    metrics,
    upgrades,
    fault_tolerant,
]

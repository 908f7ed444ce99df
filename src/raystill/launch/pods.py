"""Pods: what a driver, a head and a worker are. Each is admissible under Pod Security "restricted"."""

from typing import Any

from raystill.launch.gpus import Node
from raystill.launch.sizes import Group, cpus
from raystill.provenance import HARDWARE
from raystill.recipe import Kubernetes
from raystill.serving.keys import KEY
from raystill.session import ENVIRONMENT, GROWS

Doc = dict[str, Any]

MOUNT = "/etc/raystill"
"""Where every pod finds recipe.yaml and compute.yaml."""
HUB, MODELS = "/cache/hub", "/tmp/raystill-models"
"""Copies of models: from the hub, and from a store (artifacts.Checkpoint keeps them there)."""
GRACE_S, DRAIN_S = 120, 90
"""A node that is taken away lets Ray move work off it for 90 s; Kubernetes' own grace of 30 s would cut that."""
SMALL_CPUS = 4
"""CPUs of a pod that only drives."""
PLAIN_GIB = 32
"""Memory of a worker without GPUs."""
SCRATCH_GB = 50
"""Logs, spilled objects and tokens of a pod."""
HEAD_STORE_GIB, STORE_GIB = 1, 8
"""Ray's object store. It lies in /dev/shm, and no prompt and no weight passes through it."""
SHM_PER_GPU_GIB = 4
"""What NCCL and vLLM share between a node's processes, beside the object store."""
PORTS = {
    "gcs-server": 6379,
    "dashboard": 8265,
    "client": 10001,
    "serve": 8000,
    "as-metrics": 44217,
    "dash-metrics": 44227,
}
"""A head's ports. PodMonitors find the last two by name; `metrics` is KubeRay's own."""
STAY = {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false", "karpenter.sh/do-not-disrupt": "true"}
"""Keeps node autoscalers from taking a pod whose loss costs more than its node."""
RESTRICTED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
"""A container's part of Pod Security "restricted"."""


def driver(asked: Kubernetes, node: Node, labels: Doc, config: str, command: list[str]) -> Doc:
    """The driver's pod template: no Ray and no GPU."""
    made = {
        "name": "driver",
        "image": asked.cpu_image or asked.image,
        "command": command,
        "env": _environment(asked, {**ENVIRONMENT, HARDWARE: _hardware(node)}, secret_key=False),
        "resources": _resources(SMALL_CPUS, asked.memory_gib, SCRATCH_GB),
        "securityContext": RESTRICTED,
        "volumeMounts": [{"name": "recipe", "mountPath": MOUNT, "readOnly": True}],
    }
    spec = _spec(asked, "driver", made, [_recipe(config)], on_spot=False)
    # The one pod that asks Kubernetes for something: the stages' clusters.
    spec |= {"restartPolicy": "Never", "automountServiceAccountToken": True}
    return {"metadata": {"labels": labels, "annotations": STAY}, "spec": spec}


def head(asked: Kubernetes, stage: str, node: Node, labels: Doc, config: str, *, grows: bool) -> Doc:
    """A head group. It offers no CPU and no GPU, so that only Ray itself and the stage's driver run there."""
    shm = HEAD_STORE_GIB + 1
    made = _ray_container(asked, "ray-head", stage, node, {GROWS: "1"} if grows else {})
    made["ports"] = [{"name": name, "containerPort": port} for name, port in PORTS.items()]
    made["resources"] = _resources(SMALL_CPUS, asked.memory_gib, 2 * SCRATCH_GB)
    # A head reads tokenizers and configurations alone, so its cache is small and its node's own.
    spec = _spec(
        asked, stage, made, _volumes(config, shm, {"emptyDir": {"sizeLimit": f"{SCRATCH_GB}G"}}), on_spot=False
    )
    # Ray's autoscaler runs beside it and changes the RayCluster; nothing else needs Kubernetes' API.
    spec["automountServiceAccountToken"] = grows
    return {
        "rayStartParams": {"num-cpus": "0", "object-store-memory": str(HEAD_STORE_GIB << 30)},
        "template": {"metadata": {"labels": labels, "annotations": STAY}, "spec": spec},
    }


def worker(asked: Kubernetes, stage: str, node: Node, group: Group, labels: Doc, config: str, *, spot: bool) -> Doc:
    """A worker group: an engine, an equal part of one, or a node's training workers per pod."""
    shm = STORE_GIB + 1 + SHM_PER_GPU_GIB * group.gpus
    made = _ray_container(asked, "ray-worker", stage, node, {})
    more = {"nvidia.com/gpu": group.gpus} if group.gpus else {}
    if stage == "train" and asked.rdma:
        more[asked.rdma] = group.gpus
        # Memory that the network card reads must not move.
        made["securityContext"] = RESTRICTED | {"capabilities": {"drop": ["ALL"], "add": ["IPC_LOCK"]}}
    memory = group.gpus * node.gib_per_gpu or PLAIN_GIB
    # The model cache lies on the node's own disk unless it has a volume.
    disk = SCRATCH_GB if asked.storage_class else SCRATCH_GB + asked.cache_gb
    made["resources"] = _resources(cpus(group, node), memory, disk, **more)
    spec = _spec(asked, stage, made, _volumes(config, shm, _cache(asked)), on_spot=spot)
    if group.gpus:
        spec["nodeSelector"] = asked.node_selector or {"nvidia.com/gpu.product": node.product}
        spec["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    if spot:
        spec["nodeSelector"] = spec.get("nodeSelector", {}) | asked.spot
        spec["tolerations"] = spec.get("tolerations", []) + [
            {"key": key, "operator": "Equal", "value": value, "effect": "NoSchedule"}
            for key, value in asked.spot.items()
        ]
        spec["priorityClassName"] = "raystill-spot"
    market = {"ray.io/market-type": "spot" if spot else "on-demand"}
    return {
        "groupName": group.name,
        "replicas": group.least,
        "minReplicas": group.least,
        "maxReplicas": group.most,
        "numOfHosts": group.hosts,
        "labels": market,
        "rayStartParams": {"object-store-memory": str(STORE_GIB << 30)},
        "template": {"metadata": {"labels": labels, "annotations": {} if spot else STAY}, "spec": spec},
    }


def _ray_container(asked: Kubernetes, name: str, stage: str, node: Node, more: dict[str, str]) -> Doc:
    environment = {
        **ENVIRONMENT,
        HARDWARE: _hardware(node),
        "HF_HOME": HUB,
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": str(DRAIN_S),
        **more,
    }
    return {
        "name": name,
        "image": asked.image,
        "env": _environment(asked, environment, secret_key=stage == "serve"),
        "securityContext": RESTRICTED,
        "volumeMounts": [
            {"name": "recipe", "mountPath": MOUNT, "readOnly": True},
            {"name": "shm", "mountPath": "/dev/shm"},
            {"name": "cache", "mountPath": HUB, "subPath": "hub"},
            {"name": "cache", "mountPath": MODELS, "subPath": "models"},
        ],
    }


def _hardware(node: Node) -> str:
    """What speeds are measured on: driver and heads have no GPU to ask."""
    return f"{node.gpus} x {node.product}"


def _spec(asked: Kubernetes, stage: str, container: Doc, volumes: list[Doc], *, on_spot: bool) -> Doc:
    """A pod of one container. Off spot nodes it stays by affinity, since not every cloud taints them."""
    spec: Doc = {
        "serviceAccountName": f"{asked.service_account}-{stage}",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": GRACE_S,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 1000,
            "fsGroup": 1000,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": volumes,
    }
    if asked.spot and not on_spot:
        never = [{"key": key, "operator": "NotIn", "values": [value]} for key, value in asked.spot.items()]
        required = {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": never}]}
        }
        spec["affinity"] = {"nodeAffinity": required}
    return spec


def _environment(asked: Kubernetes, plain: dict[str, str], *, secret_key: bool) -> list[Doc]:
    """Variables of a container; the endpoint's key is for pods that serve alone."""
    named: list[Doc] = [{"name": name, "value": value} for name, value in {**plain, **asked.environment}.items()]
    for name, place in asked.secrets.items():
        secret, _, key = place.partition("/")
        if name != KEY or secret_key:
            named.append({"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}})
    return named


def _resources(cores: int, memory_gib: int, disk_gb: int, **more: int) -> Doc:
    """Requests and limits, which are equal: a pod that borrows memory is the first to be killed."""
    each = {"cpu": str(cores), "memory": f"{memory_gib}Gi", "ephemeral-storage": f"{disk_gb}G"}
    each |= {name: str(n) for name, n in more.items()}
    return {"requests": each, "limits": each}


def _recipe(config: str) -> Doc:
    return {"name": "recipe", "configMap": {"name": config}}


def _volumes(config: str, shm_gib: int, cache: Doc) -> list[Doc]:
    shm = {"medium": "Memory", "sizeLimit": f"{shm_gib}Gi"}
    return [_recipe(config), {"name": "shm", "emptyDir": shm}, {"name": "cache", **cache}]


def _cache(asked: Kubernetes) -> Doc:
    """A worker's model cache: a volume that lives as long as the pod, or the node's disk."""
    size = f"{asked.cache_gb}G"
    if not asked.storage_class:
        return {"emptyDir": {"sizeLimit": size}}
    claim = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": asked.storage_class,
        "resources": {"requests": {"storage": size}},
    }
    return {"ephemeral": {"volumeClaimTemplate": {"spec": claim}}}

"""Every rendered document passes every check that needs no cluster, and each check is shown to fail."""

import copy
from collections.abc import Callable
from typing import Any

import api_rules
import crds
import operator_rules
import pytest
import traps
from documents import CASES, Doc, of_stage, rendered

Change = Callable[[Doc], Any]
ALL = [(case, doc) for case in CASES for doc in rendered(case)]
NAMES = [f"{case}: {doc['kind']} {doc['metadata']['name']}" for case, doc in ALL]
CUSTOM = [
    pytest.param(doc, id=name) for (_, doc), name in zip(ALL, NAMES, strict=True) if "ray.io" in doc["apiVersion"]
]
FLAGSHIP = rendered("flagship")
ELASTIC = rendered("elastic on spot")
FULL = rendered("every option")


def as_pod(template: Doc, name: str) -> Doc:
    """A pod template as a document of its own, which the built-in schema knows."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, **template["metadata"]},
        "spec": template["spec"],
    }


@pytest.mark.parametrize(("case", "doc"), ALL, ids=NAMES)
def test_a_document_passes(case: str, doc: Doc) -> None:
    if "ray.io" in doc["apiVersion"]:
        assert operator_rules.complaints(doc) == []
        assert list(api_rules.values(doc)) == []
        for name, template in traps.templates(doc):
            assert api_rules.complaints(as_pod(template, name)) == []
    else:
        assert api_rules.complaints(doc) == []
    if doc["kind"] != "ConfigMap":
        trains_by_rdma = case == "every option" and doc["metadata"]["name"] == "small-train"
        # Memory that a network card reads may not move, so those pods are no longer restricted: k8s/components/rdma.
        assert traps.complaints(doc) == (["trainer: ray-worker adds capabilities"] if trains_by_rdma else [])


@crds.needed
@pytest.mark.parametrize("doc", CUSTOM)
def test_kuberays_schema_takes_it(doc: Doc) -> None:
    assert crds.complaints(doc) == []


def worker(doc: Doc) -> Doc:
    return traps.cluster(doc)["workerGroupSpecs"][0]  # type: ignore[no-any-return]


def container(doc: Doc) -> Doc:
    return worker(doc)["template"]["spec"]["containers"][0]  # type: ignore[no-any-return]


def head(doc: Doc) -> Doc:
    return traps.cluster(doc)["headGroupSpec"]  # type: ignore[no-any-return]


def spec(doc: Doc) -> Doc:
    return doc["spec"]  # type: ignore[no-any-return]


def rules(doc: Doc, *each: Doc) -> None:
    spec(doc)["deletionStrategy"] = {"deletionRules": list(each)}


JOB = of_stage(FLAGSHIP, "train")
TEACHER = of_stage(FLAGSHIP, "generate")
SERVICE = of_stage(FLAGSHIP, "serve")
DRIVER = of_stage(FLAGSHIP, "driver")
GROWING = of_stage(ELASTIC, "generate")

SCHEMA: list[tuple[str, Doc, Change, str]] = [
    ("a key with a typo", JOB, lambda d: spec(d).update(shutdownAfterJobFinish=True), "shutdownAfterJobFinish"),
    ("a deep typo", JOB, lambda d: worker(d).update(numOfHost=2), "numOfHost"),
    ("a typo in a pod", JOB, lambda d: worker(d)["template"]["spec"].update(nodeSelectors={}), "nodeSelectors"),
    ("no container name", JOB, lambda d: container(d).pop("name"), "'name' is a required property"),
    ("a bad quantity", JOB, lambda d: container(d)["resources"]["limits"].update(memory="lots"), "lots"),
    ("a number where KubeRay wants text", JOB, lambda d: head(d)["rayStartParams"].update({"num-cpus": 0}), "num-cpus"),
    ("an unknown autoscaler", GROWING, lambda d: traps.cluster(d)["autoscalerOptions"].update(version="v3"), "v3"),
    ("an unknown mode of authentication", JOB, lambda d: traps.cluster(d)["authOptions"].update(mode="none"), "none"),
    ("RayService with RayJob's key", SERVICE, lambda d: spec(d).update(rayClusterSpec={}), "rayClusterSpec"),
    ("no cluster", SERVICE, lambda d: spec(d).pop("rayClusterConfig"), "rayClusterConfig"),
]
CEL: list[tuple[str, Doc, Change, str]] = [
    ("an unknown manager", JOB, lambda d: spec(d).update(managedBy="me"), "managedBy field value must be"),
    ("an empty strategy", JOB, lambda d: spec(d).update(deletionStrategy={}), "deletionStrategy requires"),
    (
        "two forms of a strategy", JOB,
        lambda d: spec(d).update(
            deletionStrategy={
                "onSuccess": {"policy": "DeleteCluster"},
                "deletionRules": [{"policy": "DeleteSelf", "condition": {"jobStatus": "FAILED", "ttlSeconds": 1}}],
            }
        ),
        "cannot be used together within the same deletionStrategy",
    ),
    (
        "a rule without a condition", JOB,
        lambda d: rules(d, {"policy": "DeleteSelf", "condition": {"ttlSeconds": 1}}),
        "requires either the JobStatus or",
    ),
]  # fmt: skip
OPERATOR: list[tuple[str, Doc, Change, str]] = [
    ("a long name", JOB, lambda d: d["metadata"].update(name="a" * 48), "longer than 47"),
    ("a name that starts with a digit", JOB, lambda d: d["metadata"].update(name="3b"), "DNS-1035"),
    ("an unknown mode", JOB, lambda d: spec(d).update(submissionMode="Nope"), "submissionMode"),
    ("a negative limit", JOB, lambda d: spec(d).update(backoffLimit=-1), "backoffLimit"),
    ("no deadline at all", JOB, lambda d: spec(d).update(activeDeadlineSeconds=0), "activeDeadlineSeconds"),
    ("kept, with a time to live", JOB, lambda d: spec(d).update(shutdownAfterJobFinishes=False), "ttlSecondsAfterFinished"),
    ("suspended and kept", JOB, lambda d: spec(d).update(suspend=True, shutdownAfterJobFinishes=False), "suspend needs"),
    ("nothing to run on", JOB, lambda d: spec(d).pop("rayClusterSpec"), "neither"),
    (
        "rules beside shutdown", JOB,
        lambda d: rules(d, {"policy": "DeleteSelf", "condition": {"jobStatus": "FAILED"}}),
        "deletionRules and shutdown",
    ),
    (
        "rules out of order", JOB,
        lambda d: spec(d).update(
            shutdownAfterJobFinishes=False,
            deletionStrategy={
                "deletionRules": [
                    {"policy": "DeleteSelf", "condition": {"jobStatus": "FAILED", "ttlSeconds": 1}},
                    {"policy": "DeleteCluster", "condition": {"jobStatus": "FAILED", "ttlSeconds": 9}},
                ]
            },
        ),
        "out of order",
    ),
    ("retries by hand", JOB, lambda d: spec(d).update(submissionMode="InteractiveMode"), "InteractiveMode"),
    ("a sidecar's submitter", JOB, lambda d: spec(d).update(submissionMode="SidecarMode", submitterConfig={}), "SidecarMode"),
    ("a broken runtime environment", JOB, lambda d: spec(d).update(runtimeEnvYAML="a: ["), "runtimeEnvYAML"),
    ("resources twice", JOB, lambda d: head(d).update(resources={"CPU": "4"}), "resources in two places"),
    ("labels in the wrong place", JOB, lambda d: worker(d)["rayStartParams"].update(labels="a=b"), "labels in rayStartParams"),
    ("no label", JOB, lambda d: worker(d).update(labels={"a b": "c"}), "no label"),
    ("fewest above most", JOB, lambda d: worker(d).update(minReplicas=9, maxReplicas=1), "minReplicas above"),
    ("priority without autoscaler v2", JOB, lambda d: worker(d).update(priority=1), "need autoscaler v2"),
    (
        "autoscaler v1 with priorities", GROWING,
        lambda d: traps.cluster(d)["autoscalerOptions"].pop("version"), "need autoscaler v2",
    ),
    (
        "a pod that restarts", GROWING,
        lambda d: worker(d)["template"]["spec"].update(restartPolicy="Always"), "restartPolicy",
    ),
    ("a suspended group", GROWING, lambda d: worker(d).update(suspend=True), "suspended with the autoscaler"),
    ("an old Ray", JOB, lambda d: traps.cluster(d).update(rayVersion="2.40.0"), "token auth needs"),
    ("no version", JOB, lambda d: traps.cluster(d).pop("rayVersion"), "token auth needs"),
    ("Kubernetes' tokens", JOB, lambda d: traps.cluster(d)["authOptions"].update(enableK8sTokenAuth=True), "K8sTokenAuth"),
    ("an alpha feature", JOB, lambda d: traps.cluster(d).update(networkPolicy={"mode": "DenyAll"}), "feature gate"),
    (
        "Redis by environment", SERVICE,
        lambda d: head(d)["template"]["spec"]["containers"][0]["env"].append({"name": "RAY_REDIS_ADDRESS", "value": "r:1"}),
        "RAY_REDIS_ADDRESS",
    ),
    ("an unknown upgrade", SERVICE, lambda d: spec(d).update(upgradeStrategy={"type": "Rolling"}), "upgradeStrategy"),
    ("no duration", SERVICE, lambda d: d["metadata"].update(annotations={"ray.io/initializing-timeout": "soon"}), "duration"),
    (
        "an incremental upgrade", SERVICE,
        lambda d: spec(d).update(upgradeStrategy={"type": "NewClusterWithIncrementalUpgrade"}), "incremental",
    ),
    ("two groups of one name", GROWING, lambda d: worker(d).update(groupName="teacher-spot"), "one name"),
]  # fmt: skip
BUILT_IN: list[tuple[str, Doc, Change, str]] = [
    ("a key with a typo", DRIVER, lambda d: spec(d).update(backofLimit=1), "backofLimit"),
    ("a text for a number", DRIVER, lambda d: spec(d).update(backoffLimit="6"), "backoffLimit"),
    ("a name with capitals", DRIVER, lambda d: d["metadata"].update(name="Bad_Name"), "metadata.name"),
    ("a kind that is none", DRIVER, lambda d: d.update(kind="Jobs"), "no schema"),
    (
        "a quantity", DRIVER,
        lambda d: spec(d)["template"]["spec"]["containers"][0]["resources"]["limits"].update(cpu="lots"), "lots",
    ),
    ("an unknown policy", DRIVER, lambda d: spec(d)["template"]["spec"].update(restartPolicy="Sometimes"), "Sometimes"),
    ("a label", DRIVER, lambda d: d["metadata"]["labels"].update({"a b": "c"}), "no label"),
    (
        "a variable twice", DRIVER,
        lambda d: spec(d)["template"]["spec"]["containers"][0]["env"].append({"name": "AWS_REGION", "value": "x"}), "twice",
    ),
]  # fmt: skip


def env(doc: Doc, name: str, value: str) -> None:
    container(doc)["env"].append({"name": name, "value": value})


def drop_volume(doc: Doc, name: str) -> None:
    pod = worker(doc)["template"]["spec"]
    pod["volumes"] = [v for v in pod["volumes"] if v["name"] != name]


TRAPPED: list[tuple[str, Doc, Change, str]] = [
    ("root", JOB, lambda d: worker(d)["template"]["spec"]["securityContext"].pop("runAsNonRoot"), "not restricted"),
    ("escalation", JOB, lambda d: container(d)["securityContext"].update(allowPrivilegeEscalation=True), "not restricted"),
    ("a capability", JOB, lambda d: container(d)["securityContext"]["capabilities"].update(add=["SYS_PTRACE"]), "adds"),
    ("the host's network", JOB, lambda d: worker(d)["template"]["spec"].update(hostNetwork=True), "host namespaces"),
    (
        "the host's disk", JOB,
        lambda d: worker(d)["template"]["spec"]["volumes"].append({"name": "h", "hostPath": {"path": "/"}}), "volume h",
    ),
    ("a free autoscaler", GROWING, lambda d: traps.cluster(d)["autoscalerOptions"].pop("securityContext"), "autoscaler is not"),
    ("borrowed memory", JOB, lambda d: container(d)["resources"]["requests"].update(memory="1Gi"), "limits are not"),
    ("a tag", JOB, lambda d: container(d).update(image="ray:2.60"), "without digest"),
    ("a token in plain", JOB, lambda d: env(d, "HF_TOKEN", "hf_1"), "in plain"),
    ("a runtime environment", JOB, lambda d: spec(d).update(runtimeEnvYAML="env_vars: {}"), "runtimeEnvYAML"),
    ("a shell's entrypoint", JOB, lambda d: spec(d).update(entrypoint="a && b"), "more than words"),
    (
        "the endpoint's key", SERVICE,
        lambda d: spec(d).update(serveConfigV2=spec(d)["serveConfigV2"].replace("on_gpu:", "key: k\n    on_gpu:")),
        "key in plain",
    ),
    ("Kubernetes' own grace", TEACHER, lambda d: worker(d)["template"]["spec"].pop("terminationGracePeriodSeconds"), "grace"),
    ("a drain as long as the grace", TEACHER, lambda d: env(d, "X_DRAIN_TIMEOUT_S", "1") or container(d)["env"].reverse() or
     container(d)["env"][0].update(value="120"), "grace"),
    ("no shared memory", JOB, lambda d: drop_volume(d, "shm"), "/dev/shm"),
    (
        "a store above it", JOB,
        lambda d: worker(d)["rayStartParams"].update({"object-store-memory": str(999 << 30)}), "/dev/shm",
    ),
    ("tasks on the head", JOB, lambda d: head(d)["rayStartParams"].pop("num-cpus"), "work on the head"),
    (
        "a GPU on the head", JOB,
        lambda d: head(d)["template"]["spec"]["containers"][0]["resources"]["limits"].update({"nvidia.com/gpu": "1"}),
        "work on the head",
    ),
    ("another Ray", JOB, lambda d: traps.cluster(d).update(rayVersion="2.59.0"), "rayVersion"),
    ("no authentication", JOB, lambda d: traps.cluster(d).pop("authOptions"), "no token"),
    ("no most", JOB, lambda d: worker(d).pop("maxReplicas"), "size not said"),
    ("a trainer that grows", JOB, lambda d: worker(d).update(maxReplicas=8), "not whole"),
    ("autoscaler for nothing", TEACHER, lambda d: traps.cluster(d).update(enableInTreeAutoscaling=True), "without room"),
    ("which autoscaler", GROWING, lambda d: traps.cluster(d)["autoscalerOptions"].pop("version"), "version not said"),
    ("a trainer on spot", JOB, lambda d: worker(d)["labels"].update({"ray.io/market-type": "spot"}), "on spot"),
    ("a teacher that is never let go", TEACHER, lambda d: worker(d)["template"]["metadata"].update(
        annotations={"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}), "eviction and market"),
    ("a submitter", JOB, lambda d: spec(d).pop("submissionMode"), "submitter"),
    ("a cluster that stays", JOB, lambda d: spec(d).update(shutdownAfterJobFinishes=False), "the cluster stays"),
    ("no deadline", JOB, lambda d: spec(d).pop("activeDeadlineSeconds"), "no activeDeadlineSeconds"),
    ("GPUs that never come", JOB, lambda d: spec(d).pop("preRunningDeadlineSeconds"), "no preRunningDeadlineSeconds"),
    ("a queue and the autoscaler", JOB, lambda d: traps.cluster(d).update(enableInTreeAutoscaling=True), "Kueue never"),
    ("another stage's account", JOB, lambda d: head(d)["template"]["spec"].update(serviceAccountName="default"), "account"),
    (
        "a token for nobody", JOB,
        lambda d: worker(d)["template"]["spec"].update(automountServiceAccountToken=True), "token of the API",
    ),
    (
        "an autoscaler without its token", GROWING,
        lambda d: head(d)["template"]["spec"].update(automountServiceAccountToken=False), "token of the API",
    ),
    ("ports without names", JOB, lambda d: head(d)["template"]["spec"]["containers"][0].update(ports=[{"name": "a"}]), "ports"),
    ("an upgrade beside", SERVICE, lambda d: spec(d).pop("upgradeStrategy"), "twice the GPUs"),
    ("a short start", SERVICE, lambda d: d["metadata"].pop("annotations"), "initializing-timeout"),
    (
        "Redis for a job", JOB,
        lambda d: traps.cluster(d).update(gcsFaultToleranceOptions={"redisPassword": {"value": "x"}}), "fault tolerance",
    ),
]  # fmt: skip


def mutations(rows: list[tuple[str, Doc, Change, str]]) -> Any:
    return pytest.mark.parametrize(("doc", "change", "says"), [row[1:] for row in rows], ids=[row[0] for row in rows])


def changed(doc: Doc, change: Change) -> Doc:
    made = copy.deepcopy(doc)
    change(made)
    return made


@crds.needed
@mutations(SCHEMA)
def test_the_schema_refuses(doc: Doc, change: Change, says: str) -> None:
    assert any(says in said for said in crds.complaints(changed(doc, change)))


@crds.needed
@mutations(CEL)
def test_the_schemas_rules_refuse(doc: Doc, change: Change, says: str) -> None:
    assert any(says in said for said in crds.complaints(changed(doc, change)))


@crds.needed
def test_a_rule_about_a_change_needs_something_before() -> None:
    before = changed(JOB, lambda d: spec(d).update(managedBy="ray.io/kuberay-operator"))
    after = changed(JOB, lambda d: spec(d).update(managedBy="kueue.x-k8s.io/multikueue"))
    assert crds.complaints(after) == []
    assert any("immutable" in said for said in crds.complaints(after, before))


@mutations(OPERATOR)
def test_the_operators_rules_refuse(doc: Doc, change: Change, says: str) -> None:
    assert any(says in said for said in operator_rules.complaints(changed(doc, change)))


@mutations(BUILT_IN)
def test_the_api_servers_rules_refuse(doc: Doc, change: Change, says: str) -> None:
    assert any(says in said for said in api_rules.complaints(changed(doc, change)))


@mutations(TRAPPED)
def test_a_trap_is_seen(doc: Doc, change: Change, says: str) -> None:
    assert any(says in said for said in traps.complaints(changed(doc, change)))

"""What a namespace gets once: valid, and what the rendered documents need of it is there."""

import copy
import json
import re
import shutil
import subprocess
from pathlib import Path

import api_rules
import pytest
import ray
import traps
import yaml
from documents import ROOT, Doc, of_stage, rendered

from raystill.launch import pods, readiness

K8S = ROOT / "k8s"
NO_SCHEMA = {"kueue.x-k8s.io/v1beta2", "monitoring.coreos.com/v1"}
"""Kinds of other operators, whose schemas are not at hand: only their names, labels and quantities are looked at."""
kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kustomize comes with kubectl, which is not here")


def built(folder: Path) -> list[Doc]:
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def named(documents: list[Doc], kind: str) -> dict[str, Doc]:
    return {doc["metadata"]["name"]: doc for doc in documents if doc["kind"] == kind}


@pytest.fixture(scope="module")
def namespace() -> list[Doc]:
    """All files of base and components but patches, read without kustomize."""
    files = [*sorted((K8S / "base").glob("*.yaml")), *sorted((K8S / "components").glob("*/*.yaml"))]
    return [d for f in files if f.name != "kustomization.yaml" for d in yaml.safe_load_all(f.read_text())]


def test_every_document_is_valid(namespace: list[Doc]) -> None:
    for doc in namespace:
        if doc["apiVersion"] in NO_SCHEMA:
            assert list(api_rules.values(doc)) == []
        else:
            assert api_rules.complaints(doc) == [], doc["metadata"]["name"]


@kubectl
def test_the_example_builds_to_the_same_documents(namespace: list[Doc]) -> None:
    made = built(K8S / "example")
    listed = {(d["kind"], d["metadata"]["name"]) for d in made} - {("ConfigMap", "raystill-dashboard")}
    assert listed == {(d["kind"], d["metadata"]["name"]) for d in namespace}


@kubectl
def test_rdma_lifts_pod_security_and_nothing_else(tmp_path: Path) -> None:
    relative = {"resources": ["../base"], "components": ["../components/rdma"]}
    shutil.copytree(K8S, tmp_path / "k8s")
    (tmp_path / "k8s" / "mine").mkdir()
    (tmp_path / "k8s" / "mine" / "kustomization.yaml").write_text(yaml.safe_dump(relative))
    labels = named(built(tmp_path / "k8s" / "mine"), "Namespace")["raystill"]["metadata"]["labels"]
    level = {key.rpartition("/")[2]: value for key, value in labels.items()}
    assert level == {"enforce": "privileged", "audit": "restricted", "warn": "restricted"}


def test_stages_find_their_accounts_class_and_queue(namespace: list[Doc]) -> None:
    for doc in rendered("flagship")[1:]:
        for _, template in traps.templates(doc):
            spec = template["spec"]
            assert spec["serviceAccountName"] in named(namespace, "ServiceAccount")
            assert spec.get("priorityClassName", "raystill-spot") in named(namespace, "PriorityClass")
        queue = doc["metadata"]["labels"].get("kueue.x-k8s.io/queue-name", "raystill")
        assert queue in named(namespace, "LocalQueue")
        assert doc["metadata"]["namespace"] in named(namespace, "Namespace")


def test_the_queue_covers_all_that_a_stage_requests(namespace: list[Doc]) -> None:
    group = named(namespace, "ClusterQueue")["raystill"]["spec"]["resourceGroups"][0]
    for doc in rendered("flagship"):
        if doc["kind"] == "RayJob":
            for _, template in traps.templates(doc):
                assert set(template["spec"]["containers"][0]["resources"]["requests"]) <= set(group["coveredResources"])
    for flavor in group["flavors"]:
        assert [r["name"] for r in flavor["resources"]] == group["coveredResources"]
        assert flavor["name"] in named(namespace, "ResourceFlavor")


def selects(selector: Doc, labels: dict[str, str]) -> bool:
    """Whether a label selector selects."""
    tests = {
        "In": lambda e: labels.get(e["key"]) in e["values"],
        "NotIn": lambda e: labels.get(e["key"]) not in e["values"],
        "Exists": lambda e: e["key"] in labels,
    }
    equal = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    return equal and all(tests[e["operator"]](e) for e in selector.get("matchExpressions", []))


def opened(policies: list[Doc], way: str, pod: Doc, peer: Doc, peers_namespace: Doc, port: int) -> bool:
    """Whether traffic is let through: `way` is ingress or egress, seen from `pod`; labels as dicts."""
    side = "from" if way == "ingress" else "to"
    for policy in policies:
        spec = policy["spec"]
        if not selects(spec["podSelector"], pod):
            continue
        for rule in spec.get(way, []):
            if rule.get("ports") and port not in [p["port"] for p in rule["ports"]]:
                continue
            for end in rule.get(side, []):
                spaces = end.get("namespaceSelector", {"matchLabels": {"kubernetes.io/metadata.name": "raystill"}})
                fits = selects(spaces, peers_namespace) and selects(end.get("podSelector", {}), peer)
                if "ipBlock" not in end and fits:
                    return True
    return False


HEAD = {"ray.io/is-ray-node": "yes", "ray.io/node-type": "head", "raystill.io/stage": "train"}
WORKER = {"ray.io/is-ray-node": "yes", "ray.io/node-type": "worker", "raystill.io/stage": "train"}
SERVER = {**WORKER, "raystill.io/stage": "serve"}
OPERATOR = {"app.kubernetes.io/name": "kuberay-operator"}
OWN = {"kubernetes.io/metadata.name": "raystill"}
ITS = {"kubernetes.io/metadata.name": "kuberay-system"}
CLIENTS = {"kubernetes.io/metadata.name": "shop", "raystill.io/client": "true"}


@pytest.mark.parametrize(
    ("way", "pod", "peer", "space", "port", "open_"),
    [
        ("ingress", HEAD, OPERATOR, ITS, pods.PORTS["dashboard"], True),
        ("ingress", {**HEAD, "raystill.io/stage": "serve"}, OPERATOR, ITS, pods.PORTS["serve"], True),
        ("ingress", HEAD, {}, ITS, pods.PORTS["dashboard"], False),
        ("ingress", HEAD, OPERATOR, CLIENTS, pods.PORTS["dashboard"], False),
        ("ingress", HEAD, OPERATOR, ITS, pods.PORTS["client"], False),
        ("ingress", WORKER, HEAD, OWN, 12345, True),
        ("egress", WORKER, HEAD, OWN, 6379, True),
        ("ingress", HEAD, {"raystill.io/stage": "driver"}, OWN, pods.PORTS["dashboard"], False),
        ("ingress", SERVER, {}, CLIENTS, 8000, True),
        ("ingress", SERVER, {}, CLIENTS, pods.PORTS["dashboard"], False),
        ("ingress", WORKER, {}, CLIENTS, 8000, False),
        ("ingress", HEAD, {}, {"kubernetes.io/metadata.name": "monitoring"}, pods.PORTS["as-metrics"], True),
        ("egress", WORKER, {"k8s-app": "kube-dns"}, {"kubernetes.io/metadata.name": "kube-system"}, 53, True),
        ("egress", {**HEAD, "raystill.io/stage": "serve"}, {"raystill.io/part": "redis"}, OWN, 6379, True),
        ("ingress", {"raystill.io/part": "redis"}, {**HEAD, "raystill.io/stage": "serve"}, OWN, 6379, True),
        ("ingress", {"raystill.io/part": "redis"}, HEAD, OWN, 6379, False),
    ],
)
def test_what_may_talk_to_what(
    namespace: list[Doc], way: str, pod: Doc, peer: Doc, space: Doc, port: int, open_: bool
) -> None:
    policies = list(named(namespace, "NetworkPolicy").values())
    assert opened(policies, way, pod, peer, space, port) is open_


def test_everything_starts_closed_and_link_local_stays_so(namespace: list[Doc]) -> None:
    policies = named(namespace, "NetworkPolicy")
    assert policies["deny-all"]["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    blocks = re.findall(r"'cidr': '0\.0\.0\.0/0', 'except': \['169\.254\.0\.0/16'\]", str(policies))
    assert len(blocks) == str(policies).count("0.0.0.0/0") == 2


def test_without_the_operators_policy_the_check_fails(namespace: list[Doc]) -> None:
    left = [doc for name, doc in named(namespace, "NetworkPolicy").items() if name != "from-operator"]
    assert not opened(left, "ingress", HEAD, OPERATOR, ITS, pods.PORTS["dashboard"])


def test_monitors_name_ports_that_heads_declare(namespace: list[Doc]) -> None:
    ports = of_stage(rendered("flagship"), "train")["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    declared = {p["name"] for p in ports["containers"][0]["ports"]} | {"metrics"}  # KubeRay adds the last one itself
    for monitor in named(namespace, "PodMonitor").values():
        assert {end["port"] for end in monitor["spec"]["podMetricsEndpoints"]} <= declared
        assert set(monitor["spec"]["podTargetLabels"]) - {"ray.io/cluster"} == {"raystill.io/run", "raystill.io/stage"}


def test_the_dashboard_asks_for_metrics_that_this_ray_has() -> None:
    board = json.loads((K8S / "components" / "monitoring" / "raystill.json").read_text())
    folder = Path(ray.__file__).parent / "dashboard" / "modules" / "metrics" / "dashboards"
    known = "".join(path.read_text() for path in folder.glob("*_panels.py"))
    asked = {name for panel in board["panels"] for name in re.findall(r"ray_\w+", panel["targets"][0]["expr"])}
    assert len(asked) >= 8
    assert [name for name in asked if not re.search(rf"\b{name}\b", known)] == []


def test_nobody_but_the_driver_may_make_a_ray_job(namespace: list[Doc]) -> None:
    may = {
        name: {verb for rule in role["rules"] if "rayjobs" in rule["resources"] for verb in rule["verbs"]}
        for name, role in named(namespace, "Role").items()
    }
    assert may == {
        "raystill-driver": {"get", "create", "delete"},
        "raystill-submitter": {"get", "list", "watch", "delete"},
    }
    everything = [r for role in named(namespace, "Role").values() for rule in role["rules"] for r in rule["resources"]]
    assert not {"secrets", "pods/exec", "pods/portforward", "*"} & set(everything)


def test_people_may_do_what_submitting_looks_for(namespace: list[Doc]) -> None:
    may = {
        (group, resource, verb)
        for rule in named(namespace, "Role")["raystill-submitter"]["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    needed = {
        (group, "/".join(filter(None, (resource, part))), verb)
        for group, resource, part, verbs in readiness.RIGHTS
        for verb in verbs
    }
    assert needed <= may


def test_a_broken_policy_is_refused(namespace: list[Doc]) -> None:
    policy = copy.deepcopy(named(namespace, "NetworkPolicy")["from-clients"])
    policy["spec"]["ingress"][0]["ports"][0]["port"] = 99999
    assert any("no port" in said for said in api_rules.complaints(policy))
    policy["spec"]["podSelectors"] = {}
    assert any("podSelectors" in said for said in api_rules.complaints(policy))

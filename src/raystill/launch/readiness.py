"""Whether a cluster can take a run, asked before anything is created there. Reads only."""

import re
import string
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from raystill.errors import Problem
from raystill.launch.api import Api
from raystill.launch.pods import Doc
from raystill.recipe_file import Loc, Located

AT: Loc = ("compute", "kubernetes")
OLDEST = (1, 7)
"""KubeRay whose fields the documents use."""
RIGHTS = (
    ("", "configmaps", "", ("create", "patch")),
    ("batch", "jobs", "", ("get", "create", "patch", "delete")),
    ("ray.io", "rayjobs", "", ("list", "delete")),
    ("", "pods", "", ("list",)),
    ("", "pods", "log", ("get",)),
)
"""What submitting, following and cancelling take: API group, resource, subresource, verbs."""
INSTALL = "helm install kuberay-operator kuberay/kuberay-operator --version 1.7.0 -n kuberay-system --create-namespace"
UPGRADE = (
    "kubectl replace -k 'github.com/ray-project/kuberay/ray-operator/config/crd?ref=v1.7.0', then helm upgrade: the "
    "definitions first, the operator after them"
)
UNITS = {
    "": 1.0,
    "m": 1e-3,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "Ki": 2.0**10,
    "Mi": 2.0**20,
    "Gi": 2.0**30,
    "Ti": 2.0**40,
}
GPU = "nvidia.com/gpu.product"


def problems(api: Api, located: Located, documents: list[Doc]) -> list[Problem]:
    """Everything that would keep these documents from running, as far as this user may look."""
    space = located.recipe.compute.kubernetes.namespace
    if found := list(_namespace(api, located, space)):
        return found  # the rest would only repeat it
    looks = (_rights(api, located, space), _kuberay(api, located, documents), _quota(api, located, space, documents))
    later = (_gpus(api, located, documents), _storage_class(api, located))
    return [problem for look in (*looks, *later) for problem in look]


def _namespace(api: Api, located: Located, space: str) -> Iterator[Problem]:
    if api.ask("GET", f"/api/v1/namespaces/{space}", 403, 404).status_code == 404:
        yield Problem(
            located.where(*AT, "namespace"),
            f"the cluster has no namespace {space}",
            "kubectl apply --server-side -k k8s/example makes 'raystill'; or name yours: compute.kubernetes.namespace",
        )


def _rights(api: Api, located: Located, space: str) -> Iterator[Problem]:
    for group, resource, subresource, verbs in RIGHTS:
        missing = [verb for verb in verbs if not _may(api, space, group, resource, subresource, verb)]
        if missing:
            yield Problem(
                located.where(*AT, "namespace"),
                f"you may not {', '.join(missing)} {'/'.join(filter(None, (resource, subresource)))} in {space}",
                f"who runs the cluster types: kubectl -n {space} create rolebinding NAME --role raystill-submitter "
                "--user YOU (the role is in k8s/base/rbac.yaml)",
            )


def _may(api: Api, space: str, group: str, resource: str, subresource: str, verb: str) -> bool:
    asked = {"namespace": space, "group": group, "resource": resource, "subresource": subresource, "verb": verb}
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
    body = review | {"spec": {"resourceAttributes": asked}}
    answer = api.ask("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", json=body)
    return bool(answer.json()["status"]["allowed"])


def _kuberay(api: Api, located: Located, documents: list[Doc]) -> Iterator[Problem]:
    """Its definitions, by the fields they know, and its operator, by its image's tag where that may be seen."""
    answer = api.ask("GET", "/openapi/v3/apis/ray.io/v1", 404)
    if answer.status_code == 404:
        yield Problem(located.where(*AT), "the cluster does not know RayJobs: KubeRay is not installed", INSTALL)
        return
    schemas = {
        kind["kind"]: schema
        for schema in answer.json()["components"]["schemas"].values()
        for kind in schema.get("x-kubernetes-group-version-kind", [])
    }
    for kind in ("RayJob", "RayService"):
        unknown = {
            field for doc in documents if doc["kind"] == kind for field in _unknown(schemas.get(kind, {}), doc, kind)
        }
        if unknown:
            what = f"the cluster's KubeRay is too old: it does not know {', '.join(sorted(unknown))}"
            yield Problem(located.where(*AT), what, UPGRADE)
    labelled = "app.kubernetes.io/name=kuberay-operator"
    for operator in _shown(api, "/apis/apps/v1/deployments", labelSelector=labelled):
        image = operator["spec"]["template"]["spec"]["containers"][0]["image"]
        version = re.search(r":v?(\d+)\.(\d+)", image)
        if version and (int(version[1]), int(version[2])) < OLDEST:
            yield Problem(located.where(*AT), f"the cluster's KubeRay operator is {image}, and 1.7 is needed", UPGRADE)


def _shown(api: Api, url: str, **selectors: str) -> list[Doc]:
    """Objects of a kind; none where this user may not look."""
    answer = api.ask("GET", url, 403, params=selectors)
    items: list[Doc] = answer.json().get("items", [])
    return items


def _unknown(schema: Mapping[str, Any], value: Any, at: str) -> Iterator[str]:
    """Fields that a schema does not name. One that says nothing about its fields knows them all."""
    if isinstance(value, list):
        for part in value:
            yield from _unknown(schema.get("items", {}), part, at)
    known = schema.get("properties")
    if not isinstance(value, dict) or known is None or schema.get("x-kubernetes-preserve-unknown-fields"):
        return
    for key, part in value.items():
        if key in known:
            yield from _unknown(known[key], part, f"{at}.{key}")
        else:
            yield f"{at}.{key}"


def _quota(api: Api, located: Located, space: str, documents: list[Doc]) -> Iterator[Problem]:
    """Stages come one after another, each beside the driver. Quotas for some pods only are not looked at."""
    driver = next(takes(doc) for doc in documents if doc["kind"] == "Job")
    stages = {d["metadata"]["labels"]["raystill.io/stage"]: takes(d) for d in documents if d["kind"] == "RayJob"}
    where = located.where(*AT, "namespace")
    for quota in _shown(api, f"/api/v1/namespaces/{space}/resourcequotas"):
        if quota["spec"].get("scopes") or quota["spec"].get("scopeSelector"):
            continue
        for key, hard in quota["spec"].get("hard", {}).items():
            resource = key.removeprefix("requests.").removeprefix("limits.")
            for stage, taken in stages.items():
                needed = taken.get(resource, 0) + driver.get(resource, 0)
                if needed > quantity(hard):
                    what = f"{stage} takes {needed:g} of {key}, and quota allows {hard} in {space}"
                    fix = f"kubectl -n {space} edit resourcequota {quota['metadata']['name']}, or ask for less in 'compute'"
                    yield Problem(where, what, fix)


def takes(doc: Doc) -> dict[str, float]:
    """What all pods of a Job or RayJob request at the least, by resource, and how many they are."""
    total: dict[str, float] = defaultdict(float)
    for template, number in _templates(doc["spec"]):
        total["pods"] += number
        for container in template["spec"]["containers"]:
            for name, amount in container["resources"]["requests"].items():
                total[name] += number * quantity(amount)
    return total


def quantity(text: str) -> float:
    """A quantity of Kubernetes, such as 500m or 16Gi, as a number."""
    number = text.rstrip(string.ascii_letters)
    return float(number) * UNITS[text.removeprefix(number)]


def _templates(spec: Doc) -> Iterator[tuple[Doc, int]]:
    if "rayClusterSpec" not in spec:
        yield spec["template"], 1
        return
    yield spec["rayClusterSpec"]["headGroupSpec"]["template"], 1
    for group in spec["rayClusterSpec"]["workerGroupSpecs"]:
        yield group["template"], group["minReplicas"] * group["numOfHosts"]


def _storage_class(api: Api, located: Located) -> Iterator[Problem]:
    """The one of the pods' model caches, where this user may look."""
    name, url = located.recipe.compute.kubernetes.storage_class, "/apis/storage.k8s.io/v1/storageclasses"
    if name is None or api.ask("GET", f"{url}/{name}", 403, 404).status_code != 404:
        return
    there = ", ".join(sorted(each["metadata"]["name"] for each in _shown(api, url))) or "none"
    yield Problem(
        located.where(*AT, "storage_class"),
        f"the cluster has no storage class {name}; there are: {there}",
        "compute.kubernetes.storage_class: one of those, or leave it out: the node's own disk",
    )


def _gpus(api: Api, located: Located, documents: list[Doc]) -> Iterator[Problem]:
    """Whether nodes with the labels that the workers want are there now."""
    nodes = [node["metadata"].get("labels", {}) for node in _shown(api, "/api/v1/nodes")]
    wanted = {
        tuple(sorted(template["spec"]["nodeSelector"].items()))
        for doc in documents
        if doc["kind"] == "RayJob"
        for template, number in _templates(doc["spec"])
        if number and "nodeSelector" in template["spec"]
    }
    for labels in sorted(wanted):
        if nodes and not any(all(node.get(key) == value for key, value in labels) for node in nodes):
            there = ", ".join(sorted({node[GPU] for node in nodes if GPU in node})) or "none"
            missing = ", ".join(f"{key}={value}" for key, value in labels)
            yield Problem(
                located.where(*AT, "gpu"),
                f"no node has {missing}; GPU types there: {there}",
                "compute.kubernetes.gpu or node_selector: one of those; where nodes come when pods ask for them: --anyway",
            )

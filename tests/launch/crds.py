"""What an API server would say to a custom resource: KubeRay's own schemas with defaults, closed objects and CEL rules.

The schemas (ray.io_*.yaml of KubeRay v1.7.0's config/crd/bases) are not part of this repository; KUBERAY_CRDS names their
folder.
"""

import copy
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from cel_expr_python import cel
from jsonschema import Draft202012Validator

FOLDER = Path(os.environ.get("KUBERAY_CRDS", Path(__file__).parents[3] / "shared" / "kuberay-crds"))
PLURALS = {"RayJob": "rayjobs", "RayService": "rayservices", "RayCluster": "rayclusters"}
needed = pytest.mark.skipif(
    not (FOLDER / "ray.io_rayjobs.yaml").is_file(),
    reason=f"KubeRay v1.7.0's schemas are not in {FOLDER}; KUBERAY_CRDS=FOLDER names another",
)


def complaints(doc: dict[str, Any], old: dict[str, Any] | None = None) -> list[str]:
    """Everything the schema and its rules refuse of a document; `old` is what it would replace."""
    whole = schema(doc["kind"])
    value = _pruned({key: part for key, part in doc.items() if key not in ("metadata", "status")})
    _fill(whole, value)
    found = [f"{e.json_path}: {e.message}" for e in Draft202012Validator(whole).iter_errors(value)]
    return found + list(_rules(whole, value, old or {}, "$"))


@cache
def schema(kind: str) -> dict[str, Any]:
    """The v1 schema of a kind, with every object closed. Metadata is the API server's own."""
    text = (FOLDER / f"ray.io_{PLURALS[kind]}.yaml").read_bytes()
    crd = yaml.load(text, Loader=yaml.CSafeLoader)
    version = next(v for v in crd["spec"]["versions"] if v["name"] == "v1")
    made: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    _close(made)
    return made


@cache
def _program(rule: str) -> Any:
    variables = {"self": cel.Type.DYN, "oldSelf": cel.Type.DYN}
    return cel.NewEnv(variables=variables).compile(rule)


def _close(node: Any) -> None:
    if isinstance(node, dict):
        if "properties" in node and not node.get("x-kubernetes-preserve-unknown-fields"):
            node.setdefault("additionalProperties", False)
        for key, part in node.items():
            if key == "properties":
                for inner in part.values():
                    _close(inner)
            elif key not in ("default", "enum"):
                _close(part)
    elif isinstance(node, list):
        for part in node:
            _close(part)


def _pruned(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _pruned(v) for k, v in value.items() if v is not None}
    return [_pruned(v) for v in value] if isinstance(value, list) else copy.copy(value)


def _fill(node: dict[str, Any], value: Any) -> None:
    """Structural defaults, which a server sets before it validates."""
    if isinstance(value, dict):
        for name, inner in node.get("properties", {}).items():
            if name not in value and "default" in inner:
                value[name] = copy.deepcopy(inner["default"])
            if name in value:
                _fill(inner, value[name])
        more = node.get("additionalProperties")
        if isinstance(more, dict):
            for name in value.keys() - node.get("properties", {}).keys():
                _fill(more, value[name])
    elif isinstance(value, list):
        for part in value:
            _fill(node.get("items", {}), part)


def _rules(node: dict[str, Any], value: Any, old: Any, at: str) -> Iterator[str]:
    """CEL rules of this node and below; those about a change are asked only where there was something before."""
    for rule in node.get("x-kubernetes-validations", []):
        if "oldSelf" in rule["rule"] and not old:
            continue
        if _program(rule["rule"]).eval(data={"self": value, "oldSelf": old}).plain_value() is not True:
            yield f"{at}: {rule.get('message', rule['rule'])}"
    if isinstance(value, dict):
        for name, inner in node.get("properties", {}).items():
            if name in value:
                yield from _rules(inner, value[name], old.get(name) if isinstance(old, dict) else None, f"{at}.{name}")
    elif isinstance(value, list):
        for i, part in enumerate(value):
            yield from _rules(node.get("items", {}), part, None, f"{at}[{i}]")

"""What an API server refuses of Kubernetes' own kinds: their schemas (kubernetes-validate), and what these leave out."""

import re
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
from kubernetes_validate.utils import SchemaNotFoundError

Doc = dict[str, Any]
VERSION = "1.34"
QUANTITY = re.compile(r"\d+(\.\d+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?")
SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
LABEL_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
ENUMS = {
    "restartPolicy": ("Always", "OnFailure", "Never"),
    "operator": ("In", "NotIn", "Exists", "DoesNotExist", "Equal", "Gt", "Lt"),
    "effect": ("NoSchedule", "PreferNoSchedule", "NoExecute"),
    "protocol": ("TCP", "UDP", "SCTP"),
    "medium": ("", "Memory"),
    "fsGroupChangePolicy": ("OnRootMismatch", "Always"),
}


def complaints(doc: Doc) -> list[str]:
    """Everything wrong with a document of a built-in kind."""
    found: list[str] = []
    try:
        kubernetes_validate.validate(doc, VERSION, strict=True)
    except kubernetes_validate.ValidationError as e:
        found.append(f"{e.path}: {e.message}")
    except SchemaNotFoundError as e:  # what the command line only warns of
        found.append(f"no schema: {e}")
    return found + list(values(doc))


def values(doc: Doc) -> Iterator[str]:
    """Names, labels, quantities, ports and enumerations, of which the schemas say only that they are texts or numbers."""
    if not SUBDOMAIN.fullmatch(doc["metadata"]["name"]):
        yield f"metadata.name {doc['metadata']['name']}"
    yield from _within(doc, "$")


def _within(value: Any, at: str) -> Iterator[str]:
    if isinstance(value, list):
        for i, part in enumerate(value):
            yield from _within(part, f"{at}[{i}]")
    if not isinstance(value, dict):
        return
    for key, part in value.items():
        here = f"{at}.{key}"
        if key in ("labels", "nodeSelector", "matchLabels") and isinstance(part, dict):
            bad = [k for k, v in part.items() if not LABEL_KEY.fullmatch(k) or not LABEL.fullmatch(v)]
            yield from (f"{here}: no label {k}" for k in bad)
        elif key in ("requests", "limits", "hard") and isinstance(part, dict):
            yield from (f"{here}.{k}: no quantity {v}" for k, v in part.items() if not QUANTITY.fullmatch(str(v)))
        elif key in ("sizeLimit", "storage") and not isinstance(part, dict) and not QUANTITY.fullmatch(str(part)):
            yield f"{here}: no quantity {part}"
        elif key in ("containerPort", "port", "targetPort") and isinstance(part, int) and not 0 < part < 65536:
            yield f"{here}: no port {part}"
        elif key in ENUMS and isinstance(part, str) and part not in ENUMS[key]:
            yield f"{here}: {part} is none of {', '.join(ENUMS[key])}"
        elif key == "env":
            names = [entry["name"] for entry in part]
            yield from (f"{here}: {name} twice" for name in set(names) if names.count(name) > 1)
        yield from _within(part, here)

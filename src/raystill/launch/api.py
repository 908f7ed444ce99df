"""Kubernetes' API over plain HTTP: one request, asked again while its answer is one that passes.

Nothing here watches. A stage takes hours, and one GET every ten seconds needs no stream that may end unseen.
"""

import json
import threading
import time
from typing import Any

import httpx

from raystill.errors import Interrupted, StageError
from raystill.launch.pods import Doc

POLL_S = 10.0
"""Time between two looks at the same thing."""
PATIENCE_S = 900.0
"""How long an API server may be away: a control plane's upgrade takes minutes."""
LONGEST_WAIT_S = 120.0
"""Most that is believed of Retry-After."""
PLURALS = {"ConfigMap": "configmaps", "Job": "jobs", "RayJob": "rayjobs", "RayService": "rayservices"}


class Api:
    """One cluster's API. Answers that pass (429, 5xx, a lost connection) are asked for again for `patience_s`."""

    def __init__(self, client: httpx.Client, stopping: threading.Event, patience_s: float = PATIENCE_S) -> None:
        self.client, self.stopping, self.patience_s = client, stopping, patience_s

    def ask(self, method: str, url: str, *fine: int, **more: Any) -> httpx.Response:
        """The answer, of a status below 300 or one of these.

        Raises StageError with what Kubernetes said to anything else, and when it stays away; Interrupted.
        """
        until = time.monotonic() + self.patience_s
        while True:
            pause_s = POLL_S
            try:
                answer = self.client.request(method, url, **more)
                if answer.status_code < 300 or answer.status_code in fine:
                    return answer
                if answer.status_code != 429 and answer.status_code < 500:
                    raise StageError(
                        f"Kubernetes says {answer.status_code}: {said(answer)}; k8s/README.md names what is needed"
                    )
                problem = f"status {answer.status_code}"
                if (asked := answer.headers.get("Retry-After", "")).isdecimal():
                    pause_s = min(float(asked), LONGEST_WAIT_S)
            except httpx.TransportError as e:
                problem = type(e).__name__
            if time.monotonic() > until:
                raise StageError(
                    f"Kubernetes' API has not answered for {self.patience_s:g} s ({problem}); what runs there goes on"
                )
            self.wait(pause_s)

    def wait(self, seconds: float | None = None) -> None:
        """Until the next look. Raises Interrupted when this process shall stop."""
        if self.stopping.wait(POLL_S if seconds is None else seconds):
            raise Interrupted("stopped; what runs in the cluster goes on, and the next one to look finds it")

    def listed(self, url: str, **selectors: str) -> list[Doc]:
        """All objects of a kind, by labelSelector or fieldSelector."""
        items: list[Doc] = self.ask("GET", url, params=selectors).json()["items"]
        return items

    def apply(self, doc: Doc, *fine: int, dry: bool = False) -> httpx.Response:
        """Server-side apply; `dry` asks whether it would be let in, admission and all, and stores nothing."""
        params = {"fieldManager": "raystill", "force": "true", "fieldValidation": "Strict"}
        headers = {"Content-Type": "application/apply-patch+yaml"}  # of which JSON is a part
        more = {"dryRun": "All"} if dry else {}
        return self.ask("PATCH", one(doc), *fine, params=params | more, headers=headers, content=json.dumps(doc))


def url(doc: Doc) -> str:
    """Where objects of a document's kind are in its namespace."""
    group = "/api/v1" if doc["apiVersion"] == "v1" else f"/apis/{doc['apiVersion']}"
    return f"{group}/namespaces/{doc['metadata']['namespace']}/{PLURALS[doc['kind']]}"


def one(doc: Doc) -> str:
    """Where a document's object is."""
    return f"{url(doc)}/{doc['metadata']['name']}"


def said(answer: httpx.Response) -> str:
    """The message of a refusal."""
    try:
        return str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]

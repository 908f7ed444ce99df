"""Runs on Kubernetes: the ConfigMap and the driver's Job are applied, all else is looked at by its labels."""

import contextlib
import shlex
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx

from raystill.errors import RecipeError, ResourceError, StageError
from raystill.launch import follow, kubeconfig, seen
from raystill.launch.api import Api, one, said
from raystill.launch.follow import Look
from raystill.launch.pods import Doc

PATIENCE_S = 120.0
"""How long a person waits for an API server that is away."""


class Kubernetes:
    """One namespace of a cluster."""

    def __init__(self, api: Api, namespace: str, context: str | None) -> None:
        self.api, self.namespace = api, namespace
        self.where = f" --namespace {namespace}" + (f" --context {shlex.quote(context)}" if context else "")

    def create(self, config: Doc, driver: Doc) -> bool:
        """Create a run, or find it going; True when it was created. One that ended is taken away first.

        Raises RecipeError when another recipe of this name is going.
        """
        while True:
            self.refuse_another(driver)
            answer = self.api.ask("GET", one(driver), 404)
            found = answer.json()
            if answer.status_code == 404:
                for doc in (config, driver):  # admission says no before anything is created
                    self.api.apply(doc, dry=True)
                self.api.apply(config)
                # 409 and 422: somebody else's was created meanwhile, and what a Job runs cannot be changed.
                if self.api.apply(driver, 409, 422).status_code < 300:
                    return True
            elif "deletionTimestamp" not in found["metadata"]:
                if not seen.ended(found):
                    return False
                only = {"uid": found["metadata"]["uid"]}  # not one that somebody made since
                body = {"preconditions": only, "propagationPolicy": "Foreground"}
                self.api.ask("DELETE", one(driver), 404, 409, json=body)
            self.api.wait(1)

    def refuse_another(self, driver: Doc) -> None:
        """Raise RecipeError when a run of this name goes with another recipe: a driver, or a stage that outlived one."""
        name, config = driver["metadata"]["labels"]["raystill.io/run"], seen.config(driver)
        jobs = [each for each in self._of("/apis/batch/v1", "jobs", name) if not seen.ended(each)]
        stages = [each for each in self._of("/apis/ray.io/v1", "rayjobs", name) if not seen.stage_ended(each)]
        for each in [*jobs, *stages]:
            if seen.config(each) != config and "deletionTimestamp" not in each["metadata"]:
                raise RecipeError(follow.CHANGED.format(name=name))

    def look(self, name: str) -> Look:
        """The driver's Job, its RayJobs, and pods that do not start."""
        answer = self.api.ask("GET", self._driver(name), 404)
        if answer.status_code == 404:
            raise RecipeError(self._none(name))
        job = answer.json()
        stages = self._of("/apis/ray.io/v1", "rayjobs", name)
        pods = self._of("/api/v1", "pods", name)
        lines = [seen.row(job["metadata"]["name"], seen.state(job))]
        lines += [seen.row(each["metadata"]["name"], seen.stage(each)) for each in stages]
        troubles = [trouble for pod in pods for trouble in seen.troubles(pod)]
        condition = seen.ended(job)
        if condition:
            failed = condition["type"] == "Failed"
            return Look("failed" if failed else "done", lines, why=condition.get("message", "") if failed else "")
        drivers = [pod for pod in pods if pod["metadata"]["labels"].get("raystill.io/stage") == "driver"]
        if not drivers:
            troubles += self._events(f"{name}-driver")
        return Look("going", lines, troubles, stuck=next(filter(None, map(seen.unpulled, drivers)), ""))

    def log(self, name: str) -> Iterator[str]:
        """The newest driver pod's lines. A stream that ends or falls silent is asked for anew, from the last line on."""
        pod, last = "", ""
        while True:
            started = time.monotonic()
            newest = self._newest_driver(name)
            if newest != pod:
                pod, last = newest, ""
            if pod:
                for stamp, line in self._lines(pod, last):
                    last = stamp
                    yield line or " "
            yield ""
            self.api.wait(max(0.0, follow.SILENCE_S - (time.monotonic() - started)))

    def cancel(self, name: str) -> str:
        """The driver goes first, so that it makes no further RayJob."""
        gone = self._delete(self._driver(name))
        stages = self._of("/apis/ray.io/v1", "rayjobs", name)
        for each in stages:
            gone |= self._delete(one({"apiVersion": "ray.io/v1", "kind": "RayJob", **each}))
        if not gone:
            raise RecipeError(self._none(name))
        for each in self._of("/api/v1", "configmaps", name):
            self._delete(one({"apiVersion": "v1", "kind": "ConfigMap", **each}))
        ended = ", ".join(each["metadata"]["name"] for each in stages) or "no stage was running"
        return f"'{name}' is cancelled ({ended}); what it had committed stays, and submitting again goes on from there"

    def _delete(self, url: str) -> bool:
        """Delete and wait until it is gone, with all that belongs to it; False when it was not there."""
        answer = self.api.ask("DELETE", url, 404, params={"propagationPolicy": "Foreground"})
        there = answer.status_code != 404
        while answer.status_code != 404:
            answer = self.api.ask("GET", url, 404)
            if answer.status_code != 404:
                self.api.wait(1)
        return there

    def _driver(self, name: str) -> str:
        return f"/apis/batch/v1/namespaces/{self.namespace}/jobs/{name}-driver"

    def _of(self, group: str, plural: str, name: str) -> list[Doc]:
        return self.api.listed(f"{group}/namespaces/{self.namespace}/{plural}", labelSelector=f"raystill.io/run={name}")

    def _newest_driver(self, name: str) -> str:
        """The pod that has something to say; empty while there is none."""
        pods = [pod for pod in self._of("/api/v1", "pods", name) if seen.started(pod)]
        drivers = [pod["metadata"] for pod in pods if pod["metadata"]["labels"].get("raystill.io/stage") == "driver"]
        return max(((str(m["creationTimestamp"]), str(m["name"])) for m in drivers), default=("", ""))[1]

    def _lines(self, pod: str, last: str) -> Iterator[tuple[str, str]]:
        """Lines after a time stamp, until silence; Kubernetes takes whole seconds, so those that are known are dropped."""
        params: dict[str, Any] = {"follow": "true", "timestamps": "true"} | ({"sinceTime": last} if last else {})
        url = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/log"
        silence = httpx.Timeout(30, read=follow.SILENCE_S)
        with (
            contextlib.suppress(httpx.TransportError),
            self.api.client.stream("GET", url, params=params, timeout=silence) as answer,
        ):
            if answer.status_code == 403:
                raise StageError(f"Kubernetes says 403: {said_of(answer)}; k8s/README.md names what is needed")
            if answer.status_code < 300:
                for text in answer.iter_lines():
                    stamp, _, line = text.partition(" ")
                    if stamp > last:
                        yield stamp, line

    def _events(self, job: str) -> list[str]:
        """Why a Job has no pod: a quota, an account that is not there, a policy."""
        chosen = f"involvedObject.name={job},type=Warning"
        answer = self.api.ask(
            "GET", f"/api/v1/namespaces/{self.namespace}/events", 403, params={"fieldSelector": chosen}
        )
        items = answer.json()["items"] if answer.status_code == 200 else []
        return [f"{job}: {event['reason']}: {event['message']}" for event in items[-1:]]

    def _none(self, name: str) -> str:
        url = f"/apis/batch/v1/namespaces/{self.namespace}/jobs"
        runs = self.api.listed(url, labelSelector="raystill.io/stage=driver")
        there = ", ".join(sorted(each["metadata"]["labels"]["raystill.io/run"] for each in runs)) or "none"
        return f"no run '{name}' in namespace {self.namespace}; there are: {there}; or name another: --namespace, --context"


def connect(context: str | None, namespace: str) -> tuple[Kubernetes, str]:
    """A namespace of the cluster that a context names, and what it is called.

    Raises ResourceError when it does not answer or refuses the login.
    """
    login = kubeconfig.login(context)
    called = f"{login.context} ({login.server})"
    try:
        answer = login.client.get("/version")
    except httpx.TransportError as e:
        raise ResourceError(
            f"{called} does not answer: {e}; is the network there, and is it the right cluster? another: --context NAME"
        ) from None
    if answer.status_code == 401:
        raise ResourceError(
            f"{called} refuses the login of its context; log in anew as for kubectl, and try: kubectl auth whoami"
        )
    return Kubernetes(Api(login.client, threading.Event(), PATIENCE_S), namespace, context), called


def said_of(answer: httpx.Response) -> str:
    """The message of a refusal that came as a stream."""
    answer.read()
    return said(answer)

"""The driver in a cluster: the same line as anywhere, each stage that needs Ray as a RayJob of its own.

A stage's RayJob has the stage's name, so a driver that starts anew finds the one that runs and waits for it. It trusts
only artifacts: a RayJob that ended without the stage's result is deleted, and made again.
"""

import ssl
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from raystill import live, recipe_file
from raystill.context import Progress
from raystill.errors import Interrupted, ResourceError, StageError
from raystill.launch.pods import Doc
from raystill.launch.render import render

POD = Path("/var/run/secrets/kubernetes.io/serviceaccount")
API = "https://kubernetes.default.svc"
POLL_S = 10.0
"""Time between two looks at a RayJob."""
PATIENCE_S = 900.0
"""How long an API server may be away: a control plane's upgrade takes minutes."""
ENDED = ("Complete", "Failed", "ValidationFailed")


def drive(path: str, compute: str | None) -> str:
    """Run a recipe from a pod and return what to print at the end.

    Raises ResourceError outside a pod, StageError when a stage's RayJob fails, Interrupted on SIGTERM, which leaves it.
    """
    if not POD.is_dir():
        raise ResourceError(
            "drive runs in a pod that `raystill submit RECIPE --to k8s` describes; here, type: raystill run"
        )
    recipe = recipe_file.load(path, compute).recipe
    documents = render(recipe, Path(path).read_text(encoding="utf-8"))
    jobs = {doc["metadata"]["labels"]["raystill.io/stage"]: doc for doc in documents if doc["kind"] == "RayJob"}
    trusted = ssl.create_default_context(cafile=str(POD / "ca.crt"))
    with httpx.Client(base_url=API, verify=trusted, timeout=30, trust_env=False) as client:
        api = Api(client, POD / "token")

        def elsewhere(progress: Progress, stopping: threading.Event, stage: str) -> None:
            make(api, jobs[stage], progress, stopping)

        return live.run(path, compute=compute, elsewhere=elsewhere)


class Api:
    """The cluster's API, for RayJobs. Answers that pass (429, 5xx, a lost connection) are asked for again."""

    def __init__(self, client: httpx.Client, token: Path) -> None:
        self.client, self.token = client, token

    def ask(self, method: str, url: str, stopping: threading.Event, **body: Any) -> httpx.Response:
        """The answer, whatever its status is but a passing one. Raises StageError after PATIENCE_S, Interrupted."""
        until = time.monotonic() + PATIENCE_S
        while True:
            try:
                # Read each time: Kubernetes renews it every hour.
                headers = {"Authorization": f"Bearer {self.token.read_text().strip()}"}
                answer = self.client.request(method, url, headers=headers, **body)
                if answer.status_code != 429 and answer.status_code < 500:
                    return answer
                said = f"status {answer.status_code}"
            except httpx.TransportError as e:
                said = type(e).__name__
            if time.monotonic() > until:
                raise StageError(
                    f"Kubernetes' API has not answered for {PATIENCE_S:g} s ({said}); the stage may still run"
                )
            wait(stopping)


def make(api: Api, job: Doc, progress: Progress, stopping: threading.Event) -> None:
    """Create a RayJob, or find it, and wait for its end. Raises StageError when it failed or is another recipe's."""
    name, jobs = job["metadata"]["name"], url(job)
    one = f"{jobs}/{name}"
    while True:
        found = granted(api.ask("GET", one, stopping), name, 404)
        if found.status_code == 404:
            if granted(api.ask("POST", jobs, stopping, json=job), name, 409).status_code != 409:
                break
        elif "deletionTimestamp" in found.json()["metadata"]:
            wait(stopping)
        elif state(found.json()) in ENDED:  # and its result is not there, or nobody had called for it
            granted(api.ask("DELETE", one, stopping), name, 404)
        elif config(found.json()) != config(job):
            raise StageError(
                f"RayJob {name} runs already, for another recipe of this name; wait for it, rename this recipe, or: "
                f"kubectl delete rayjob {name}"
            )
        else:
            break
    follow(api, one, name, progress, stopping)


def follow(api: Api, one: str, name: str, progress: Progress, stopping: threading.Event) -> None:
    """Wait for a RayJob's end, saying what changes. Raises StageError unless it succeeded, Interrupted."""
    before = None
    while True:
        answer = granted(api.ask("GET", one, stopping), name, 404)
        if answer.status_code == 404:
            raise StageError(
                f"RayJob {name} was deleted by someone; what it had committed stays, so submit again goes on"
            )
        status = answer.json().get("status", {})
        now = state(answer.json())
        if now != before:
            progress.say(f"{name}: {now or 'waits'}")
        if now == "Complete" and status.get("jobStatus") == "SUCCEEDED":
            return
        if now in ENDED:
            why = status.get("message") or status.get("reason") or f"jobStatus {status.get('jobStatus')}"
            raise StageError(f"RayJob {name} failed: {why}; see: kubectl describe rayjob {name}")
        before = now
        wait(stopping)


def wait(stopping: threading.Event) -> None:
    """Until the next look. Raises Interrupted when the driver shall stop."""
    if stopping.wait(POLL_S):
        raise Interrupted("the driver was stopped; its stage goes on, and the next driver finds it")


def granted(answer: httpx.Response, name: str, *fine: int) -> httpx.Response:
    """The answer, of a status below 300 or one of these. Raises StageError with what Kubernetes said."""
    if answer.status_code < 300 or answer.status_code in fine:
        return answer
    try:
        said = str(answer.json().get("message"))
    except ValueError:
        said = answer.text[:200]
    raise StageError(f"RayJob {name}: Kubernetes says {answer.status_code}: {said}; k8s/README.md names what it needs")


def url(job: Doc) -> str:
    """Where RayJobs of its namespace are."""
    return f"/apis/{job['apiVersion']}/namespaces/{job['metadata']['namespace']}/rayjobs"


def state(job: Doc) -> str:
    """jobDeploymentStatus, empty before the operator has seen it."""
    return str(job.get("status", {}).get("jobDeploymentStatus", ""))


def config(job: Doc) -> str:
    """The ConfigMap that holds its recipe; its name changes with the content."""
    volumes = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["volumes"]
    return str(next(volume["configMap"]["name"] for volume in volumes if "configMap" in volume))

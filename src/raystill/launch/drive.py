"""The driver in a cluster: the same line as anywhere, each stage that needs Ray as a RayJob of its own.

A stage's RayJob has the stage's name, so a driver that starts anew finds the one that runs and waits for it. It trusts
only artifacts: a RayJob that ended without the stage's result is deleted, and made again.
"""

import ssl
import threading
from pathlib import Path

import httpx

from raystill import live, recipe_file
from raystill.context import Progress
from raystill.errors import ResourceError, StageError
from raystill.launch import seen
from raystill.launch.api import Api, one, url
from raystill.launch.kubeconfig import bearer
from raystill.launch.pods import Doc
from raystill.launch.render import render

POD = Path("/var/run/secrets/kubernetes.io/serviceaccount")
API = "https://kubernetes.default.svc"


def drive(path: str, compute: str | None) -> str:
    """Run a recipe from a pod and return what to print at the end.

    Raises ResourceError outside a pod, StageError when a stage's RayJob fails, Interrupted on SIGTERM, which leaves it.
    """
    if not POD.is_dir():
        raise ResourceError(
            "drive runs in a pod that `raystill submit RECIPE --to k8s` makes; here, type: raystill run"
        )
    recipe = recipe_file.load(path, compute).recipe
    documents = render(recipe, Path(path).read_text(encoding="utf-8"))
    jobs = {doc["metadata"]["labels"]["raystill.io/stage"]: doc for doc in documents if doc["kind"] == "RayJob"}
    trusted = ssl.create_default_context(cafile=str(POD / "ca.crt"))
    token = bearer(lambda: (POD / "token").read_text().strip())  # Kubernetes renews it every hour
    with httpx.Client(base_url=API, verify=trusted, timeout=30, trust_env=False, auth=token) as client:

        def elsewhere(progress: Progress, stopping: threading.Event, stage: str) -> None:
            make(Api(client, stopping), jobs[stage], progress)

        return live.run(path, compute=compute, elsewhere=elsewhere)


def make(api: Api, job: Doc, progress: Progress) -> None:
    """Create a RayJob, or find it, and wait for its end. Raises StageError when it failed or is another recipe's."""
    name = job["metadata"]["name"]
    while True:
        found = api.ask("GET", one(job), 404)
        if found.status_code == 404:
            if api.ask("POST", url(job), 409, json=job).status_code != 409:
                break
        elif "deletionTimestamp" in found.json()["metadata"]:
            api.wait()
        elif seen.stage_ended(found.json()):  # and its result is not there, or nobody had called for it
            api.ask("DELETE", one(job), 404)
        elif seen.config(found.json()) != seen.config(job):
            raise StageError(
                f"RayJob {name} runs already, for another recipe of this name; wait for it, rename this recipe, or: "
                f"kubectl delete rayjob {name}"
            )
        else:
            break
    follow(api, job, progress)


def follow(api: Api, job: Doc, progress: Progress) -> None:
    """Wait for a RayJob's end, saying what changes. Raises StageError unless it succeeded, Interrupted."""
    name, before = job["metadata"]["name"], None
    while True:
        answer = api.ask("GET", one(job), 404)
        if answer.status_code == 404:
            raise StageError(
                f"RayJob {name} was deleted by someone; what it had committed stays, so submit again goes on"
            )
        status = answer.json().get("status", {})
        now = str(status.get("jobDeploymentStatus", ""))
        if now != before:
            progress.say(f"{name}: {now or 'waits'}")
        if now == "Complete" and status.get("jobStatus") == "SUCCEEDED":
            return
        if seen.stage_ended(answer.json()):
            why = status.get("message") or status.get("reason") or f"jobStatus {status.get('jobStatus')}"
            raise StageError(f"RayJob {name} failed: {why}; see: kubectl describe rayjob {name}")
        before = now
        api.wait()

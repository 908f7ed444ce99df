"""What Kubernetes' documents say of a run: how far it is, and why something does not start."""

from collections.abc import Iterator

from raystill.launch.pods import Doc

UNPULLED = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
STARTING = ("PodInitializing", "ContainerCreating")


def config(job: Doc) -> str:
    """The ConfigMap that holds the recipe of a Job or RayJob; its name changes with the content."""
    spec = job["spec"]
    template = spec["rayClusterSpec"]["headGroupSpec"]["template"] if "rayClusterSpec" in spec else spec["template"]
    return str(next(each["configMap"]["name"] for each in template["spec"]["volumes"] if "configMap" in each))


def row(name: str, state: str) -> str:
    """One line of a status."""
    return f"{name:<47}  {state}"


def ended(job: Doc) -> Doc | None:
    """The condition by which a Job has ended."""
    conditions = job.get("status", {}).get("conditions", [])
    return next((c for c in conditions if c["type"] in ("Complete", "Failed") and c["status"] == "True"), None)


def stage_ended(job: Doc) -> bool:
    """Whether a RayJob has ended, well or not."""
    return job.get("status", {}).get("jobDeploymentStatus") in ("Complete", "Failed", "ValidationFailed")


def state(job: Doc) -> str:
    """A driver's Job in a few words."""
    condition, status = ended(job), job.get("status", {})
    again = f", started anew {n} times" if (n := status.get("failed", 0)) else ""
    return condition["type"] if condition else f"{'Running' if status.get('active') else 'waits'}{again}"


def stage(job: Doc) -> str:
    """A RayJob in a few words."""
    status = job.get("status", {})
    parts = [status.get("jobDeploymentStatus") or "waits", status.get("jobStatus"), status.get("message")]
    again = f"attempt {status['failed'] + 1}" if status.get("failed") else None
    return ", ".join(filter(None, [*parts, again]))


def started(pod: Doc) -> bool:
    """Whether it has said anything yet."""
    return any({"running", "terminated"} & c.get("state", {}).keys() for c in _containers(pod))


def _containers(pod: Doc) -> list[Doc]:
    status = pod.get("status", {})
    return [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]


def troubles(pod: Doc) -> Iterator[str]:
    """What keeps a pod from starting, or ended it."""
    name = pod["metadata"]["name"]
    for condition in pod.get("status", {}).get("conditions", []):
        if condition.get("reason") == "Unschedulable" and condition["status"] == "False":
            yield f"{name}: no node takes it: {condition.get('message', '')}"
    for container in _containers(pod):
        waiting = container.get("state", {}).get("waiting")
        if waiting and waiting.get("reason") not in STARTING:
            yield f"{name}: {waiting.get('reason')}: {waiting.get('message', '')}"
        ended = container.get("state", {}).get("terminated") or container.get("lastState", {}).get("terminated")
        if ended and ended.get("reason") == "OOMKilled":
            yield f"{name}: out of memory; ask for more: compute.kubernetes.memory_gib, or a smaller batch"


def unpulled(pod: Doc) -> str:
    """What is wrong with the image of a pod that waits for it; empty when nothing is."""
    for container in _containers(pod):
        waiting = container.get("state", {}).get("waiting", {})
        if waiting.get("reason") in UNPULLED:
            image, why = container["image"], waiting.get("message", waiting["reason"])
            return (
                f"image {image} cannot be pulled: {why}; look for it: docker buildx imagetools inspect {image}; mend "
                "compute.kubernetes.image, or give the account raystill-driver imagePullSecrets"
            )
    return ""

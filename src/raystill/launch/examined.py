"""plan --check of a recipe that names a cluster: whether what it asks for could be created, and would run there."""

from collections.abc import Iterator

from raystill.doctor import Finding
from raystill.errors import Problem, ResourceError
from raystill.launch.mistakes import mistakes
from raystill.launch.submission import submission
from raystill.recipe_file import load


def examine(path: str, compute: str | None = None) -> Iterator[Finding]:
    """What is wrong with a recipe for Kubernetes, and in the cluster that the kubeconfig names; nothing for one without."""
    located = load(path, compute)
    if "kubernetes" not in located.recipe.compute.model_fields_set:
        return
    what = "cluster: root, models, names, image and GPUs are as Kubernetes needs them"
    found = mistakes(located)
    yield from _findings(what, found)
    if not found:
        yield from _there(path, compute)


def _there(path: str, compute: str | None) -> Iterator[Finding]:
    from raystill.launch import kubernetes, readiness

    made = submission(path, compute)
    try:
        place, called = kubernetes.connect(None, made.located.recipe.compute.kubernetes.namespace)
    except ResourceError as e:
        yield Finding("cluster: not looked at", None, str(e))
        return
    what = f"cluster {called}: namespace, rights, KubeRay, quota, storage class and GPU types"
    yield from _findings(what, readiness.problems(place.api, made.located, made.documents))


def _findings(what: str, problems: list[Problem]) -> Iterator[Finding]:
    for problem in problems:
        yield Finding(what, f"{problem.where}: {problem.what}; {problem.fix}")
    if not problems:
        yield Finding(what, None)

"""Submitting a recipe: looked at, its data uploaded, created. Afterwards nothing depends on this machine."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from raystill import recipe_file, storage
from raystill.errors import Problem, StageError
from raystill.launch import readiness
from raystill.launch.follow import Place
from raystill.launch.mistakes import local_models
from raystill.launch.submission import own_code, submission, uploads, with_data
from raystill.recipe_file import Loc, Located, RecipeProblems

Say = Callable[[str], None]
Moved = dict[str, dict[str, str]]
ENDPOINT = "AWS_ENDPOINT_URL"


def to_kubernetes(path: str, compute: str | None, context: str | None, anyway: bool, say: Say) -> tuple[Place, str]:
    """Create a run in a cluster, or find it there; where it is, and its name. `anyway` makes remarks of what looks wrong there.

    Raises RecipeProblems with everything that would keep it from running, before anything is created.
    """
    from raystill.launch import kubernetes

    made = submission(path, compute)
    recipe = made.located.recipe
    place, called = kubernetes.connect(context, recipe.compute.kubernetes.namespace)
    say(f"cluster    {called}, namespace {place.namespace}")
    found = [*_store(made.located), *readiness.problems(place.api, made.located, made.documents)]
    if found and not anyway:
        raise RecipeProblems(found)
    for problem in found:
        say(f"warning: {problem}")
    for name in own_code(recipe):
        say(f"in image   {name} must be importable there")
    config, driver, *_ = made.documents
    place.refuse_another(driver)
    upload(made.moved, say)
    created = place.create(config, driver)
    say(f"{'created' if created else 'is going'}    {driver['metadata']['name']}")
    return place, recipe.name


def endpoint(path: str, compute: str | None, context: str | None) -> str:
    """Create or change the endpoint of a run's newest students, a RayService; how to ask it.

    Raises RecipeProblems with every mistake, StageError where there is no student yet.
    """
    from raystill.launch import kubernetes

    made = submission(path, compute)
    recipe, (config, service) = made.located.recipe, (made.documents[0], made.documents[-1])
    if not storage.exists(storage.join(recipe.root, "runs", f"{recipe.name}.json")):
        raise StageError(f"'{recipe.name}' has no student yet; type: raystill submit {path} --to k8s")
    place, called = kubernetes.connect(context, recipe.compute.kubernetes.namespace)
    for dry in (True, False):
        for doc in (config, service):
            place.api.apply(doc, dry=dry)
    space, name = place.namespace, service["metadata"]["name"]
    return (
        f"endpoint   {name} in {called}, namespace {space}; see: kubectl -n {space} get rayservice {name}\n"
        f"ask it at http://{name}-serve-svc.{space}:8000/v1 in the cluster; from here: kubectl -n {space} port-forward "
        f"service/{name}-serve-svc 8000"
    )


def to_ray(path: str, compute: str | None, address: str | None, say: Say) -> tuple[Place, str]:
    """Run a recipe as a job of a Ray cluster, or find it there; where it is, and its name.

    Raises RecipeProblems with every mistake, ResourceError when the cluster does not answer.
    """
    from raystill.checks import check
    from raystill.launch import ray_jobs

    located = recipe_file.load(path, compute)
    if found := [*check(located, gpu=True), *_shared(located)]:
        raise RecipeProblems(found)
    recipe = located.recipe
    place = ray_jobs.connect(address)
    say(f"cluster    {place.address}")
    moved = uploads(recipe)
    files = {"recipe.yaml": with_data(Path(path).read_text(encoding="utf-8"), moved)}
    if compute:
        files["compute.yaml"] = Path(compute).read_text(encoding="utf-8")
    upload(moved, say)
    content = hashlib.sha256("\0".join(files.values()).encode()).hexdigest()[:12]
    there = {name: storage.join(recipe.root, "inputs", content, name) for name in files}
    for name, url in there.items():
        storage.put_if_absent(url, files[name].encode())
    created = place.submit(recipe.name, there["recipe.yaml"], there.get("compute.yaml"))
    say(f"{'created' if created else 'is going'}    {recipe.name}")
    return place, recipe.name


def upload(moved: Moved, say: Say) -> None:
    """Put files of this machine where the cluster reads them. An address holds a content's hash, so none is sent twice."""
    for files in moved.values():
        for file, url in files.items():
            if not storage.exists(url):
                storage.put_if_absent(url, Path(file).read_bytes())
                say(f"uploaded   {file} -> {url}")


def _store(located: Located) -> list[Problem]:
    """A store that only this machine's environment names."""
    asked = located.recipe.compute.kubernetes
    given = os.environ.get(f"{ENDPOINT}_S3") or os.environ.get(ENDPOINT)
    if given is None or {ENDPOINT, f"{ENDPOINT}_S3"} & asked.environment.keys():
        return []
    where = located.where("compute", "kubernetes", "environment")
    what = f"here 'root' is on {given} ({ENDPOINT}), and pods would look for it on AWS"
    return [Problem(where, what, f"compute.kubernetes.environment: {{{ENDPOINT}: {given}}}, as pods reach it")]


def _shared(located: Located) -> list[Problem]:
    """Root and models that every node finds: on S3 or a hub, or an absolute path of a file system that all share."""
    root: tuple[Loc, str] = (("root",), located.recipe.root)
    return [
        Problem(
            located.where(*loc),
            f"{path} is relative to a folder of this machine",
            f"an absolute path that all nodes share, or s3://BUCKET/{path.strip('./')}",
        )
        for loc, path in [root, *local_models(located)]
        if not storage.is_s3(path) and not Path(path).is_absolute()
    ]

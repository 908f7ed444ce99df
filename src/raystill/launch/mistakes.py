"""Every mistake of a recipe that is to run on Kubernetes, found before anything is created."""

import re
from collections.abc import Iterator

from raystill import placement, storage
from raystill.checks import check
from raystill.errors import Problem, RecipeError
from raystill.launch import sizes
from raystill.launch.render import LONGEST_NAME, job_name
from raystill.models import looks_local
from raystill.recipe import KEY, VARIABLE, Cut
from raystill.recipe_file import Loc, Located

DIGEST = re.compile(r"[a-z0-9][\w.:/-]*@sha256:[0-9a-f]{64}")
DNS = re.compile(r"[a-z]([a-z0-9-]{0,50}[a-z0-9])?")
PLACE = re.compile(r"[a-z0-9][a-z0-9.-]*/[\w.-]+")
SECRETIVE = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS?)$")
AT: Loc = ("compute", "kubernetes")


def mistakes(located: Located) -> list[Problem]:
    """All of them: the recipe's own, then those of running it where this machine's files are not."""
    found = check(located, gpu=True)
    for look in (_root, _models, _keys, _names, _images, _variables, _sizes, _routes):
        found += look(located)
    return found


def _root(located: Located) -> Iterator[Problem]:
    recipe = located.recipe
    if not storage.is_s3(recipe.root):
        yield Problem(
            located.where("root"),
            f"root {recipe.root} is a folder of this machine, and no pod sees it",
            "root: s3://BUCKET/PREFIX, which the stages' service accounts may read and write",
        )


def _models(located: Located) -> Iterator[Problem]:
    """Models and keys that lie on this machine. Data is small enough to be uploaded, these are not."""
    recipe = located.recipe
    for name, teacher in recipe.all_teachers().items():
        loc: Loc = ("teachers", name) if recipe.teachers else ("teacher",)
        if teacher.recipe:
            yield Problem(
                located.where(*loc, "recipe"),
                f"{teacher.recipe} is a file of this machine: no pod can train that teacher first",
                f"submit it by itself, and then write model: its student, as `raystill path {teacher.recipe} student` "
                "prints it",
            )
        if teacher.endpoint and teacher.endpoint.key_file:
            yield Problem(
                located.where(*loc, "endpoint", "key_file"),
                f"{teacher.endpoint.key_file} is a file of this machine",
                "key_env: ENDPOINT_KEY, and compute.kubernetes.secrets: {ENDPOINT_KEY: SECRET/KEY}",
            )
    for loc, model in local_models(located):
        yield Problem(
            located.where(*loc),
            f"{model} is a folder of this machine, and no pod sees it",
            f"aws s3 cp --recursive {model} {recipe.root.rstrip('/')}/models/…, and that address here",
        )


def local_models(located: Located) -> list[tuple[Loc, str]]:
    """Models that are folders of this machine, and where the recipe names them."""
    recipe = located.recipe
    named: list[tuple[Loc, str | None]] = []
    for name, teacher in recipe.all_teachers().items():
        named.append((("teachers", name, "model") if recipe.teachers else ("teacher", "model"), teacher.model))
    for name, student in recipe.all_students().items():
        loc: Loc = ("student",) if recipe.student else ("students", name)
        named.append(((*loc, "model"), student.model))
        named.append(((*loc, "init"), student.init.from_ if isinstance(student.init, Cut) else None))
    return [
        (loc, model)
        for loc, model in named
        if model and model != "teacher" and not storage.is_s3(model) and looks_local(model)
    ]


def _keys(located: Located) -> Iterator[Problem]:
    file = located.recipe.serve.keys_file
    if file and not storage.is_s3(file):
        yield Problem(
            located.where("serve", "keys_file"),
            f"{file} is a file of this machine, and no pod sees it",
            f"aws s3 cp {file} s3://BUCKET/PREFIX where only the endpoint's service account reads, and that address here",
        )


def _names(located: Located) -> Iterator[Problem]:
    recipe, asked = located.recipe, located.recipe.compute.kubernetes
    name = job_name(recipe, "evaluate")  # no stage's is longer
    if len(name) > LONGEST_NAME:
        room = LONGEST_NAME - len(name) + len(recipe.name)
        yield Problem(
            located.where("name"),
            f"'{recipe.name}' makes the RayJob '{name}' of {len(name)} characters, and KubeRay takes {LONGEST_NAME}",
            f"name: {recipe.name[:room].rstrip('-')}",
        )
    if recipe.name[0].isdigit():
        fix = f"name: run-{recipe.name}"
        yield Problem(located.where("name"), f"'{recipe.name}' starts with a digit, which KubeRay refuses", fix)
    for key in ("namespace", "service_account", "queue", "storage_class"):
        value = getattr(asked, key)
        if value is not None and not DNS.fullmatch(value):
            said = f"{key} '{value}' is no Kubernetes name"
            yield Problem(located.where(*AT, key), said, "a-z, 0-9 and '-', a letter first, at most 52 of them")


def _images(located: Located) -> Iterator[Problem]:
    asked = located.recipe.compute.kubernetes
    for key in ("image", "cpu_image"):
        image = getattr(asked, key)
        if image is None and key == "cpu_image":
            continue
        if image is None or not DIGEST.fullmatch(image):
            said = f"'{image}' names no digest, and what a tag means can change during a run" if image else "is missing"
            yield Problem(
                located.where(*AT, key),
                f"compute.kubernetes.{key} {said}",
                f"{key}: REGISTRY/NAME@sha256:…, as `docker buildx imagetools inspect {image or 'REGISTRY/NAME:TAG'}` "
                "prints it; cluster/README.md builds one",
            )


def _variables(located: Located) -> Iterator[Problem]:
    """Environment: secrets by name alone, and those that the recipe itself asks for."""
    asked = located.recipe.compute.kubernetes
    for name, place in asked.secrets.items():
        if not VARIABLE.fullmatch(name) or not PLACE.fullmatch(place) or KEY.match(place):
            yield Problem(
                located.where(*AT, "secrets", name),
                "an entry of compute.kubernetes.secrets is not NAME: secret/key",
                f"kubectl -n {asked.namespace} create secret generic hf --from-file=token=FILE, and {{HF_TOKEN: hf/token}}",
            )
    for name, value in asked.environment.items():
        if not VARIABLE.fullmatch(name) or SECRETIVE.search(name) or KEY.match(value):
            yield Problem(
                located.where(*AT, "environment", name),
                f"{name} is no variable in capitals, or looks like a secret, which a manifest would show to everybody",
                f"put it into a Secret, and compute.kubernetes.secrets: {{{name.upper()}: SECRET/KEY}}",
            )
    for teacher in located.recipe.all_teachers().values():
        key = teacher.endpoint.key_env if teacher.endpoint else None
        if key and key not in asked.secrets:
            yield Problem(
                located.where(*AT, "secrets"),
                f"the endpoint's key_env {key} is in no Secret that compute.kubernetes.secrets names",
                f"secrets: {{{key}: SECRET/KEY}}",
            )


def _sizes(located: Located) -> Iterator[Problem]:
    recipe, asked = located.recipe, located.recipe.compute.kubernetes
    try:
        groups, served = [group for stage in sizes.stages(recipe) for group in stage.groups], sizes.served(recipe)
    except RecipeError as e:
        what, _, fix = str(e).partition("; ")
        yield Problem(located.where(*(AT if "kubernetes" in what else ("compute", "generate"))), what, fix)
        return
    _, most = placement.replicas(recipe.compute.generate)
    elastic = [group for group in groups if group.elastic]
    if elastic and asked.queue:
        said = (
            f"Kueue admits a stage whole, and replicas that come and go ({elastic[0].least} to {most}) are never that"
        )
        yield Problem(located.where("compute", "generate", "replicas"), said, f"replicas: {most}, or no queue")
    if any(group.hosts > 1 for group in elastic):
        said = "an engine over several nodes holds its place from the start, so their number cannot grow"
        yield Problem(located.where("compute", "generate", "replicas"), said, f"replicas: {most}")
    if any(group.hosts > 1 and group.elastic for group in served):
        said = "an engine over several nodes holds its place from the start, so their number cannot grow"
        yield Problem(located.where("serve", "replicas"), said, f"replicas: {served[0].most}")
    if recipe.serve.adapters:
        said = "a RayService gives each student an engine and pods of its own"
        yield Problem(located.where("serve", "adapters"), said, "leave it out")
    if not any(group.least for group in served):
        said = "when every student sleeps no pod is left that the endpoint itself could answer from"
        yield Problem(located.where("serve", "replicas"), said, "min_replicas: 1 for one of them")


def _routes(located: Located) -> Iterator[Problem]:
    """A public name behind which a model stands that a RayService does not host."""
    recipe = located.recipe
    asked = {*recipe.arms(), *(["teacher"] if recipe.serve.fallback else [])}
    if gone := asked - set(recipe.all_students()):
        yield Problem(
            located.where("serve", "fallback" if recipe.serve.fallback else "canary"),
            f"{', '.join(sorted(gone))} shall answer under '{recipe.serve.public_name}', and the cluster's endpoint hosts "
            f"{', '.join(recipe.all_students())} alone",
            "canary shares of students that sum to 1, or none of this here",
        )

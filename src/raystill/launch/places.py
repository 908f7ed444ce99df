"""Where a run is, from what a person types: its name or its recipe, and options."""

from pathlib import Path

from raystill import recipe_file
from raystill.errors import RecipeError
from raystill.launch.follow import Place
from raystill.recipe import Kubernetes as Asked


def find(
    run: str, to: str, compute: str | None, namespace: str | None, context: str | None, address: str | None
) -> tuple[Place, str]:
    """The place of a run, and the run's name.

    Raises RecipeError for another `to`, ResourceError when the place does not answer.
    """
    known(to)
    recipe = recipe_file.load(run, compute).recipe if is_recipe(run) else None
    name = recipe.name if recipe else run
    if to == "ray":
        from raystill.launch import ray_jobs

        return ray_jobs.connect(address), name
    from raystill.launch import kubernetes

    asked = recipe.compute.kubernetes if recipe else Asked()
    return kubernetes.connect(context, namespace or asked.namespace)[0], name


def is_recipe(run: str) -> bool:
    """Whether this is a recipe file rather than a name."""
    return Path(run).suffix in (".yaml", ".yml") or Path(run).is_file()


def known(to: str) -> None:
    """Raise RecipeError for a place that is none."""
    if to not in ("k8s", "ray"):
        raise RecipeError(f"--to takes k8s (KubeRay) or ray (a Ray cluster that is there), not '{to}'")

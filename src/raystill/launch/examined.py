"""plan --check of a recipe that names a cluster: whether what it asks for could be created and run there."""

from collections.abc import Iterator

from raystill.doctor import Finding
from raystill.launch.mistakes import mistakes
from raystill.recipe_file import Located


def examine(located: Located) -> Iterator[Finding]:
    """What is wrong with the documents of a recipe's run; nothing for one that names no cluster."""
    if "kubernetes" not in located.recipe.compute.model_fields_set:
        return
    what = "cluster: root, models, names, image and GPUs are as Kubernetes needs them"
    found = mistakes(located)
    for problem in found:
        yield Finding(what, f"{problem.where}: {problem.what}; {problem.fix}")
    if not found:
        yield Finding(what, None)

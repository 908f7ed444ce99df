"""What submitting a recipe creates and uploads, worked out without touching a cluster or a store."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from raystill import recipe_file, sources, storage
from raystill.launch.mistakes import mistakes
from raystill.launch.pods import Doc
from raystill.launch.render import as_yaml, render
from raystill.recipe import Recipe
from raystill.recipe_file import Located, RecipeProblems
from raystill.records import SPLITS


@dataclass(frozen=True)
class Submission:
    """A recipe for a cluster, its documents in the order in which they are to be created, and files to upload."""

    located: Located
    documents: list[Doc]
    moved: dict[str, dict[str, str]]
    """By split, as `uploads` says."""


@dataclass(frozen=True)
class Printed:
    """Documents as YAML, and what else a person must know."""

    documents: str
    remarks: str


def submission(path: str, compute: str | None = None) -> Submission:
    """All that a recipe asks a Kubernetes cluster for. Raises RecipeProblems with every mistake."""
    located = recipe_file.load(path, compute)
    if found := mistakes(located):
        raise RecipeProblems(found)
    moved = uploads(located.recipe)
    text = with_data(Path(path).read_text(encoding="utf-8"), moved)
    return Submission(located, render(located.recipe, text), moved)


def dry_run(path: str, compute: str | None = None) -> Printed:
    """A submission as text. Raises RecipeProblems with every mistake."""
    made = submission(path, compute)
    remarks = [f"{doc['kind']:<10} {doc['metadata']['name']}" for doc in made.documents]
    remarks += [f"to upload  {file} -> {url}" for files in made.moved.values() for file, url in files.items()]
    remarks += [f"in image   {name} must be importable there" for name in own_code(made.located.recipe)]
    remarks.append("nothing was created")
    return Printed(as_yaml(made.documents), "\n".join(remarks))


def uploads(recipe: Recipe) -> dict[str, dict[str, str]]:
    """By split of `data`, files of this machine and the addresses under root, by content, that they would have."""
    found: dict[str, dict[str, str]] = {}
    for split in SPLITS:
        given = getattr(recipe.data, split) or []
        here = [p for p in ([given] if isinstance(given, str) else given) if not _is_remote(p)]
        if here:
            prints = sources.identify(here, recipe.root, offline=True)
            found[split] = {
                file: storage.join(recipe.root, "inputs", str(print_)[:12], Path(file).name)
                for file, print_ in prints.items()
            }
    return found


def with_data(text: str, moved: dict[str, dict[str, str]]) -> str:
    """A recipe's text with the addresses of uploaded files; as it is when there are none."""
    if not moved:
        return text
    values = yaml.safe_load(text)
    for split, files in moved.items():
        given = values["data"][split]
        remote = [p for p in ([given] if isinstance(given, str) else given) if _is_remote(p)]
        values["data"][split] = [*remote, *files.values()]
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def _is_remote(path: str) -> bool:
    return storage.is_s3(path) or sources.is_hub_id(path)


def own_code(recipe: Recipe) -> list[str]:
    """Plug-ins of the user's own, module:attr."""
    kinds = [teacher.kind for teacher in recipe.all_teachers().values()]
    losses = [recipe.train_for(student).loss.kind for student in recipe.all_students().values()]
    named = [recipe.task.kind, *kinds, *recipe.curate.filters, *losses, *recipe.trackers]
    return sorted({name for name in named if ":" in name})

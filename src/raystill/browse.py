"""Find and look at a recipe's artifacts by name, so that nobody types hex."""

import dataclasses
import itertools
import json
from collections.abc import Iterator

from raystill import artifacts, recipe_file, storage
from raystill.artifacts import Table
from raystill.errors import RecipeError
from raystill.recipe import Recipe
from raystill.records import Answer, Example, Generation, Load, Prompt, Record, SuiteScore, Verdict

TABLES: dict[str, type[Record]] = {"prepare": Prompt, "generate": Generation, "curate": Example, "judge": Verdict}
OF_MODELS: dict[str, type[Record]] = {"answers": Answer, "load": Load, "scores": SuiteScore}


def names(path: str) -> dict[str, str]:
    """The newest artifacts of a recipe: name to URL. Raises RecipeError when it has never run."""
    return newest(recipe_file.load(path).recipe, path)


def newest(recipe: Recipe, path: str) -> dict[str, str]:
    """As `names`, of a recipe that was read from this file."""
    url = storage.join(recipe.root, "runs", f"{recipe.name}.json")
    if not storage.exists(url):
        raise RecipeError(f"'{recipe.name}' has no finished run under {recipe.root}; run it: raystill run {path}")
    found: dict[str, str] = json.loads(storage.read(url))
    return found | {"report": storage.join(recipe.root, "reports", recipe.name)}


def locate(path: str, name: str) -> str:
    """The folder of one artifact; for a trained model, the folder that transformers loads."""
    known = names(path)
    if name not in known:
        raise RecipeError(f"no artifact '{name}'; there are: {', '.join(known)}")
    url = known[name]
    if name != "report" and storage.exists(storage.join(url, artifacts.MANIFEST)):
        return artifacts.Checkpoint(url, "", artifacts.Manifest.load(url)).place()
    return url


def rows(path: str, name: str, n: int) -> Iterator[str]:
    """The first n rows of a table as indented JSON."""
    row = (TABLES | OF_MODELS).get(name.partition("/")[0])
    if row is None:
        raise RecipeError(
            f"'{name}' is no table; tables are: {', '.join([*TABLES, *(f'{n}/MODEL' for n in OF_MODELS)])}"
        )
    table = artifacts.load(Table, locate(path, name))
    found: Iterator[Record] = itertools.islice(table.rows(row), n) if table else iter([])
    for value in found:
        yield json.dumps(dataclasses.asdict(value), indent=2, ensure_ascii=False)

"""A recipe from its YAML file, with every mistake located: file, line and what to type."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from raystill import storage, tasks
from raystill.errors import Problem, RecipeError
from raystill.recipe import Recipe

Loc = tuple[str | int, ...]


@dataclass(frozen=True)
class Located:
    """A valid recipe, and where in which file each of its keys stands."""

    recipe: Recipe
    path: str
    lines: dict[Loc, int]
    values: dict[str, Any]
    """As written, with the compute file's in place."""

    def where(self, *loc: str | int) -> str:
        """`file:line` of a key, or of its nearest written parent."""
        return f"{self.path}:{_line(self.lines, loc)}"


class RecipeProblems(RecipeError):
    """All mistakes of a recipe file at once."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(p) for p in problems))
        self.problems = problems

    def __reduce__(self) -> tuple[type["RecipeProblems"], tuple[list[Problem]]]:
        return RecipeProblems, (self.problems,)


def load(path: str, compute: str | None = None) -> Located:
    """Read and validate a recipe; `compute` names a file whose map replaces its `compute` block.

    Raises RecipeProblems with every mistake.
    """
    values, lines = _parse(path)
    if compute:
        values = {**values, "compute": _parse(compute)[0]}
    try:
        return Located(of(values), path, lines, values)
    except ValidationError as e:
        raise RecipeProblems([_problem(error, path, lines) for error in mistakes(e)]) from None


def of(values: Mapping[str, Any]) -> Recipe:
    """A recipe from its values. Teachers and students without a system prompt have the task's. Raises ValidationError."""
    return tasks.with_prompts(Recipe.model_validate(values))


def mistakes(error: ValidationError) -> list[Any]:
    """pydantic's errors, less that a default could not be worked out because of one of the others."""
    return [each for each in error.errors() if each["type"] != "default_factory_not_called"]


def chosen(values: Mapping[str, Any], name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's values with what a search found for a student, each in the block that decides it, and without 'tune'."""
    made = copy.deepcopy({key: value for key, value in values.items() if key != "tune"})
    student = made["students"][name] if "students" in made else made["student"]
    if "students" in made:
        student.setdefault("train", {})
    for key, value in found.items():
        if key in ("temperature", "k"):
            made["score"] = {**(made["score"] or {}), key: value}
        elif key in ("alpha", "beta"):
            loss = _block_of(made, student, "loss").setdefault("loss", {})
            loss[key] = value
        else:
            _block_of(made, student, key)[key] = value
    if "temperature" in found:  # the loss follows the targets
        for block in (made.get("train", {}), student.get("train", {})):
            block.get("loss", {}).pop("temperature", None)
    return made


def _block_of(made: dict[str, Any], student: dict[str, Any], key: str) -> dict[str, Any]:
    """The 'train' block in which a key decides for this student; one of several students has its own."""
    shared: dict[str, Any] = made.setdefault("train", {})
    own: dict[str, Any] = student.get("train", {})
    if "students" in made and key == "loss":
        own.setdefault(key, dict(shared.get(key, {})))
    return own if key in own or "students" in made else shared


def _parse(path: str) -> tuple[dict[str, Any], dict[Loc, int]]:
    try:
        text = storage.read(path).decode() if storage.is_s3(path) else Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(f"{path} does not exist; write one with: raystill init PROMPTS_FILE") from None
    except (OSError, UnicodeDecodeError) as e:
        raise RecipeError(f"{path} cannot be read as UTF-8 text: {e}") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.MarkedYAMLError as e:
        line = e.problem_mark.line + 1 if e.problem_mark else 1
        fix = "check indentation, and quote values that hold ': ' or '{{'"
        raise RecipeProblems([Problem(f"{path}:{line}", f"not YAML: {e.problem}", fix)]) from None
    if not isinstance(values, dict):
        fix = "start with: raystill init PROMPTS_FILE"
        raise RecipeProblems([Problem(f"{path}:1", "a recipe is a map of keys, this is not", fix)])
    lines: dict[Loc, int] = {(): 1}
    twice = list(_walk(node, (), lines))
    if twice:
        raise RecipeProblems([Problem(f"{path}:{n}", f"key '{k}' is written twice", "keep one") for k, n in twice])
    return values, lines


def _walk(node: Any, loc: Loc, lines: dict[Loc, int]) -> Iterator[tuple[str, int]]:
    """Note each key's line; yield keys written twice, of which YAML would keep the last in silence."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*loc, key.value)
            if here in lines:
                yield key.value, key.start_mark.line + 1
            lines[here] = key.start_mark.line + 1
            yield from _walk(value, here, lines)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            lines[(*loc, i)] = value.start_mark.line + 1
            yield from _walk(value, (*loc, i), lines)


def _line(lines: dict[Loc, int], loc: Loc) -> int:
    while loc not in lines:
        loc = loc[:-1]
    return lines[loc]


def _problem(error: Any, path: str, lines: dict[Loc, int]) -> Problem:
    """A pydantic error in our words."""
    loc: Loc = tuple(error["loc"])
    key = ".".join(str(part) for part in loc)
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "missing":
        return Problem(f"{path}:{_line(lines, loc)}", f"'{key}' is missing", f"add: {key.replace('.', ': ')}: …")
    if message.startswith("unknown key"):
        what, _, fix = message.partition("; ")
        bad = what.split("'")[1]
        return Problem(f"{path}:{_line(lines, (*loc, bad))}", f"{what} in {key or 'the recipe'}", fix)
    given = error.get("input")
    shown = f"; it is {given!r}" if isinstance(given, str | int | float | bool | type(None)) else ""
    where = f"{path}:{_line(lines, loc)}"
    return Problem(where, f"{key or 'recipe'}: {message}{shown}", f"see: raystill plan {path} --resolved")

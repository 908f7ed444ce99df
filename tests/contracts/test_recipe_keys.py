"""Every recipe key is read, explained, and on its side of identity."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from raystill import recipe
from raystill.recipe import Block, Recipe

SOURCES = [p for p in (Path(__file__).parents[2] / "src").rglob("*.py") if p.name != "recipe.py"]


def blocks(kind: type[Block], seen: set[type[Block]] | None = None) -> Iterator[type[Block]]:
    """A block and all that are reachable from it."""
    seen = seen if seen is not None else set()
    if kind in seen:
        return
    seen.add(kind)
    yield kind
    for field in kind.model_fields.values():
        for inner in types_in(field.annotation):
            if isinstance(inner, type) and issubclass(inner, Block):
                yield from blocks(inner, seen)


def types_in(annotation: Any) -> Iterator[Any]:
    yield annotation
    for argument in get_args(annotation):
        yield from types_in(argument)


ALL = list(blocks(Recipe))
FIELDS = [(kind, name) for kind in ALL for name in kind.model_fields]


@pytest.fixture(scope="module")
def read_names() -> set[str]:
    """Attribute names read anywhere outside the recipe, and strings, by which keys are looked up."""
    found: set[str] = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                found.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


@pytest.mark.parametrize(("kind", "name"), FIELDS, ids=lambda v: v if isinstance(v, str) else v.__name__)
def test_a_key_is_read_and_explained(kind: type[Block], name: str, read_names: set[str]) -> None:
    field = kind.model_fields[name]
    assert name in read_names, f"nothing reads {kind.__name__}.{name}"
    assert field.description
    if not field.is_required():
        assert isinstance(field.json_schema_extra, dict) and field.json_schema_extra["why"]


NO_IDENTITY = {
    "Task": {"system", "language", "false_positive_rate", "metrics"},
    "Data": {"train", "validation", "test"},
    "Teacher": {"model", "recipe", "stall_s"},
    "Endpoint": {
        "key_env",
        "key_file",
        "requests_per_minute",
        "tokens_per_minute",
        "concurrency",
        "timeout_s",
        "price",
    },
    "Price": set(recipe.Price.model_fields),
    "Budget": set(recipe.Budget.model_fields),
    "Student": {"model"},
    "Train": {"checkpoint_every"},
    "Evaluate": {"concurrency", "together", "judge", "suites", "resamples", "slices"},
    "Suite": {"data", "lm_eval"},
    "Serve": {
        "host",
        "port",
        "start_timeout_s",
        "max_ongoing",
        "max_queued",
        "timeout_s",
        "max_tokens",
        "max_body_bytes",
        "compare",
        "public_name",
        "canary",
        "fallback",
        "capture",
        "replicas",
        "adapters",
        "keys_file",
        "allow_origins",
    },
    "Replicas": set(recipe.Replicas.model_fields),
    "Prices": set(recipe.Prices.model_fields),
    "Generate": set(recipe.Generate.model_fields),
    "Workers": set(recipe.Workers.model_fields),
    "Compute": set(recipe.Compute.model_fields),
    "Kubernetes": set(recipe.Kubernetes.model_fields),
    "Hours": set(recipe.Hours.model_fields),
    "Judge": {"votes"},
    "Bound": {"min", "max"},
    "Recipe": {"gate", "tune", "prices", "budget", "compute", "trackers", "max_error_rate", "root"},
}


@pytest.mark.parametrize("kind", ALL, ids=lambda k: k.__name__)
def test_each_field_is_on_its_side_of_identity(kind: type[Block]) -> None:
    outside = {
        name
        for name, field in kind.model_fields.items()
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("identity") is False
    }
    assert outside == NO_IDENTITY.get(kind.__name__, set())

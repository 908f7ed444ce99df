"""The recipe reference, docs/recipe.md, made from the recipe's own schema: `python -m raystill.reference > docs/recipe.md`."""

import sys
import types
import typing
from collections.abc import Iterator
from typing import Any

from pydantic.fields import FieldInfo

from raystill.recipe import Block, Cut, Random, Recipe

HEAD = """# The recipe

Made from the schema by `python -m raystill.reference`; `raystill plan RECIPE --resolved` prints the same for one recipe.
Keys marked * change where or how something runs or is shown, never what comes out of it.
"""


def reference() -> str:
    """The whole reference as Markdown."""
    return "\n".join([HEAD, *_section("", Recipe)]) + "\n"


def _section(prefix: str, block: type[Block]) -> Iterator[str]:
    title = prefix.rstrip(".") or "recipe"
    yield f"## {title}\n\n{(block.__doc__ or '').strip()}\n"
    yield "| key | type | default | meaning | why |\n| --- | --- | --- | --- | --- |"
    inner: list[tuple[str, type[Block]]] = []
    for name, field in block.model_fields.items():
        key = field.alias or name
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        mark = "*" if extra.get("identity") is False else ""
        default = "required" if field.is_required() else _default(field)
        cells = [f"`{key}`{mark}", _type(field.annotation), default, field.description or "", str(extra.get("why", ""))]
        yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
        forms: dict[type[Block], str] = {}
        for kind, more in _blocks(field.annotation):
            forms.setdefault(kind, more)
        inner += [(f"{prefix}{key}{more}.", kind) for kind, more in forms.items()]
    yield ""
    for path, kind in inner:
        yield from _section(path, kind)


def _blocks(annotation: Any) -> Iterator[tuple[type[Block], str]]:
    """Blocks inside a type, with what stands between the key and theirs; forms of student.init are told apart by theirs."""
    if isinstance(annotation, type) and issubclass(annotation, Block):
        yield annotation, {Cut: " (cut)", Random: " (random)"}.get(annotation, "")
        return
    arguments = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    more = ".NAME" if origin is dict else "[]" if origin is list else ""
    for argument in arguments:
        for kind, inner in _blocks(argument):
            yield kind, more + inner


def _default(field: FieldInfo) -> str:
    if field.default_factory:
        return "see why"
    if isinstance(field.default, Block):
        return "see below"
    return "none" if field.default is None else f"`{field.default}`"


def _type(annotation: Any) -> str:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _type(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(a) for a in typing.get_args(annotation) if a is not type(None))
    if origin is typing.Literal:
        return " or ".join(f"`{a}`" for a in typing.get_args(annotation))
    if origin is not None:
        return f"{origin.__name__} of {', '.join(dict.fromkeys(_type(a) for a in typing.get_args(annotation)))}"
    return {"str": "text", "int": "whole number", "float": "number", "bool": "true or false", "Any": "anything"}.get(
        annotation.__name__, "map"
    )


if __name__ == "__main__":
    sys.stdout.write(reference())

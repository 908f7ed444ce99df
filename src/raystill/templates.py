"""Templates in a recipe, such as `"{{ subject }}: {{ body }}"`: sandboxed Jinja over the columns of one row.

A recipe may come from someone else and the rows always do, so a template can neither reach Python nor run away: only
the calls, filters and statements listed here exist, loops together make at most LOOP_STEPS steps per row, and the text
may not outgrow its limit. What a template cannot do, the data's own columns should hold.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from raystill.errors import RecipeError

LOOP_STEPS = 10_000
"""Steps of all loops for one row: far more than a conversation has turns, and a few milliseconds."""
LARGEST_NUMBER = 10_000
"""Largest number in a template: `center(10 ** 9)` and its kin would fill the memory in one step."""
FILTERS = frozenset({
    "capitalize", "count", "d", "default", "dictsort", "escape", "first", "float", "int", "items", "join", "last",
    "length", "list", "lower", "replace", "reverse", "round", "sort", "string", "striptags", "title", "tojson", "trim",
    "truncate", "unique", "upper", "wordcount",
})  # fmt: skip
METHODS = frozenset({
    "endswith", "get", "items", "keys", "lower", "lstrip", "rstrip", "split", "startswith", "strip", "title", "upper",
    "values",
})  # fmt: skip
_REFUSED = (
    nodes.Assign, nodes.AssignBlock, nodes.CallBlock, nodes.Extends, nodes.FilterBlock, nodes.FromImport, nodes.Import,
    nodes.Include, nodes.Macro, nodes.Mod, nodes.Mul, nodes.Pow, nodes.With,
)  # fmt: skip


class Unrenderable(ValueError):
    """Why one row does not fit the template."""


@dataclass(frozen=True)
class Template:
    """A compiled template and the columns that it names."""

    source: str
    columns: frozenset[str]
    compiled: jinja2.Template = field(repr=False, compare=False)

    def render(self, values: Mapping[str, Any], max_bytes: int) -> str:
        """The text for one row. Raises Unrenderable, whose message never holds content."""
        pieces: list[str] = []
        room = max_bytes
        try:
            for piece in self.compiled.generate(values, _steps=_Steps()):
                room -= len(piece)
                if room < 0:
                    raise Unrenderable("the template's text is longer than max_row_bytes")
                pieces.append(piece)
        except jinja2.UndefinedError:
            raise Unrenderable("a column or key that the template names is missing") from None
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as e:
            if isinstance(e, Unrenderable):
                raise
            raise Unrenderable(f"the template fails on this row ({type(e).__name__})") from None
        return "".join(pieces)


def is_template(text: str) -> bool:
    """Whether a recipe value is a template rather than the name of a column."""
    return "{{" in text


def parse(text: str, key: str) -> Template:
    """Compile a template that stands under a key of the recipe. Raises RecipeError when it may not or cannot run."""
    env = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    env.filters["_counted"] = _counted
    try:
        tree = env.parse(text)
    except jinja2.TemplateSyntaxError as e:
        raise RecipeError(
            f"{key} is no template (line {e.lineno}: {e.message}); write it as '{{{{ column }}}}'"
        ) from None
    columns = frozenset(meta.find_undeclared_variables(tree))
    if not columns:
        raise RecipeError(f"{key} names no column, so every row would say the same; write one as '{{{{ column }}}}'")
    _check(tree, key)
    for loop in tree.find_all(nodes.For):
        loop.iter = nodes.Filter(loop.iter, "_counted", [nodes.Name("_steps", "load")], [], None, None)
    tree.set_environment(env)
    compiled = env.template_class.from_code(env, env.compile(tree), env.make_globals(None))
    return Template(text, columns, compiled)


def _check(tree: nodes.Template, key: str) -> None:
    for node in tree.find_all(nodes.Node):
        what = None
        if isinstance(node, _REFUSED):
            what = f"'{type(node).__name__}'"
        elif isinstance(node, nodes.Filter) and node.name not in FILTERS:
            what = f"the filter '{node.name}'"
        elif isinstance(node, nodes.Call) and not _may_call(node.node):
            what = "this call"
        elif isinstance(node, nodes.Const) and isinstance(node.value, int | float) and abs(node.value) > LARGEST_NUMBER:
            what = f"a number above {LARGEST_NUMBER}"
        elif isinstance(node, nodes.Filter) and node.name in ("join", "replace") and not _constant(node.args):
            what = f"'{node.name}' with other than quoted texts"
        if what:
            raise RecipeError(
                f"{key} may not use {what} (line {node.lineno}): templates are kept to what cannot run away; "
                "use a simpler template, or put the finished text into a column of the data"
            )


def _may_call(called: nodes.Expr) -> bool:
    if isinstance(called, nodes.Name):
        return called.name == "range"
    return isinstance(called, nodes.Getattr) and called.attr in METHODS


def _constant(args: Iterable[nodes.Expr]) -> bool:
    return all(isinstance(a, nodes.Const) for a in args)


class _Steps:
    """What is left of a row's loop steps."""

    def __init__(self) -> None:
        self.left = LOOP_STEPS


def _counted(values: Iterable[Any], steps: _Steps) -> Iterator[Any]:
    for value in values:
        steps.left -= 1
        if steps.left < 0:
            raise Unrenderable(f"the template's loops take more than {LOOP_STEPS} steps")
        yield value

"""Find and load plug-ins: a kind that raystill knows, or the user's own code as `module:attr`.

Modules are looked up as Python does, with the working folder first, so a file beside the recipe is enough.
"""

import ast
import difflib
import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raystill.errors import RecipeError


def load(spec: str, kinds: Mapping[str, str], what: str) -> Any:
    """The object that a kind or `module:attr` names. Raises RecipeError when it cannot be had."""
    module, attr = find(spec, kinds, what)
    try:
        loaded = importlib.import_module(module)
    except ImportError as e:
        raise RecipeError(f"{what} '{spec}' cannot be imported ({e}); install what it needs and run again") from e
    if not hasattr(loaded, attr):
        raise RecipeError(f"{what} '{spec}': module {module} has no '{attr}'; write module:name of what it has")
    return getattr(loaded, attr)


def find(spec: str, kinds: Mapping[str, str], what: str) -> tuple[str, str]:
    """Module and attribute of a kind or `module:attr`, checked without importing the module itself.

    Raises RecipeError for an unknown kind, a module that is not there, or a name that its source does not bind.
    """
    module, colon, attr = kinds.get(spec, spec).partition(":")
    if not colon:
        near = difflib.get_close_matches(spec, kinds, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(kinds)}"
        raise RecipeError(f"'{spec}' is no {what}; {hint} (your own is named as module:attr)")
    source = _source(module, spec, what)
    if source is not None and attr not in (bound := _bound(source)) and not bound & {"*", "__getattr__"}:
        raise RecipeError(f"{what} '{spec}': {source.name} has no '{attr}'; write module:name of what it defines")
    return module, attr


def identity(spec: str, kinds: Mapping[str, str], what: str) -> str:
    """What decides a plug-in's outcome: a kind's name, or the user's own with the sha256 of its source file."""
    source = source_file(spec, kinds, what)
    return f"{spec}@{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}" if source else spec


def source_file(spec: str, kinds: Mapping[str, str], what: str) -> Path | None:
    """The file of the user's own plug-in, whose content is identity; None for kinds that raystill knows."""
    return None if spec in kinds else _source(find(spec, kinds, what)[0], spec, what)


def _source(module: str, spec: str, what: str) -> Path | None:
    """The module's Python file; None when it has no source."""
    here = os.getcwd()  # noqa: PTH109  sys.path holds strings
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        found = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        found = None
    if found is None:
        raise RecipeError(
            f"{what} '{spec}': there is no module {module}; run where {module.partition('.')[0]}.py lies, or install it"
        )
    return Path(found.origin) if found.origin and found.origin.endswith(".py") else None


def _bound(source: Path) -> set[str]:
    """Names that a module's top level binds, imports included."""
    try:
        body = ast.parse(source.read_bytes()).body
    except SyntaxError as e:
        raise RecipeError(f"{source.name}:{e.lineno} is no valid Python ({e.msg}); mend that line") from e
    names: set[str] = set()
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        else:
            names |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return names

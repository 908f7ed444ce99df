"""Plug-ins by name: a known kind, or the user's own as `module:attr`. No registry: a folder's dict names its own kinds."""

import difflib
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raystill.errors import RecipeError


def find(spec: str, kinds: Mapping[str, str], what: str) -> str:
    """The `module:attr` of a kind. Raises RecipeError listing the known kinds; nothing of the plug-in is imported."""
    target = kinds.get(spec, spec)
    module, colon, attr = target.partition(":")
    if not (module and colon and attr):
        near = difflib.get_close_matches(spec, kinds, 1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(kinds)}"
        raise RecipeError(f"no {what} '{spec}'; {hint}; or name your own as module:attr")
    if spec not in kinds and _source(module) is None:
        raise RecipeError(f"{what} '{spec}': module '{module}' is not found; run where it is, or install it")
    return target


def load(spec: str, kinds: Mapping[str, str], what: str) -> Any:
    """The plug-in itself. Raises RecipeError when there is no such kind, module or attribute."""
    module, _, attr = find(spec, kinds, what).partition(":")
    if spec not in kinds:
        _here()
    try:
        return getattr(importlib.import_module(module), attr)
    except AttributeError:
        raise RecipeError(f"{what} '{spec}': module '{module}' has no '{attr}'") from None


def identity(spec: str, kinds: Mapping[str, str], what: str) -> str:
    """What decides a plug-in's outcome: a kind's name, or the user's spec with the sha256 of its source file."""
    if spec in kinds:
        return spec
    source = _source(find(spec, kinds, what).partition(":")[0])
    digest = hashlib.sha256(Path(source).read_bytes()).hexdigest()[:12] if source else ""
    return f"{spec}@{digest}"


def _here() -> None:
    """Let modules beside the recipe's working directory be found, as `python -m` does."""
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))


def _source(module: str) -> str | None:
    _here()
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return spec.origin if spec else None

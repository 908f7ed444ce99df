"""raystill distils a large language model into a small one on a Ray cluster. Importing it imports nothing heavy."""

from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raystill.live import run
    from raystill.planning import plan
    from raystill.recipe import Recipe

__version__ = _version("raystill")
__all__ = ["Recipe", "__version__", "plan", "run"]

_HOMES = {"Recipe": "raystill.recipe", "plan": "raystill.planning", "run": "raystill.live"}


def __getattr__(name: str) -> Any:
    """Load a public name from its module when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'raystill' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)

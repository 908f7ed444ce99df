"""raystill distils a large language model into a small one on a Ray cluster. Importing it imports nothing heavy."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raystill.azure import Client
    from raystill.distillation_job import DistillationJob
    from raystill.live import run
    from raystill.planning import plan
    from raystill.recipe import Recipe

    __version__: str

__all__ = ["Client", "DistillationJob", "Recipe", "__version__", "plan", "run"]

_HOMES = {
    "Client": "raystill.azure",
    "DistillationJob": "raystill.distillation_job",
    "Recipe": "raystill.recipe",
    "plan": "raystill.planning",
    "run": "raystill.live",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    import importlib

    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("raystill")
    if name not in _HOMES:
        raise AttributeError(f"module 'raystill' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)

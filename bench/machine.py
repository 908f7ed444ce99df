"""Where and when a bench's figures were seen."""

import datetime

import psutil

from raystill.provenance import hardware


def seen() -> dict[str, str]:
    """For a bench's JSON: the date, and the machine as its GPUs, or CPU and cores, and memory."""
    memory_gb = psutil.virtual_memory().total / 2**30
    return {"date": datetime.date.today().isoformat(), "machine": f"{hardware()}, {memory_gb:.0f} GB"}

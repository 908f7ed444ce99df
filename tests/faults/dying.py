"""The scripted teacher as a plug-in that ends its run at one step of a commit.

A plug-in is imported by the driver and by every replica. `DIE_AT` says the step and the moment, as in `unit within`;
whoever comes to it first ends the driver and itself.
"""

import os
import re
import signal
from pathlib import Path

from raystill import storage
from raystill.teachers.scripted import Scripted

STEPS = {"claim": r"/attempts/", "unit": r"/generate/[^/]+/[^/]+\.parquet$", "manifest": r"/generate/.*manifest\.json$"}
DRIVER = int(os.environ.setdefault("DRIVER", str(os.getpid())))
"""Replicas inherit it through the local Ray that the driver starts."""


class Dying(Scripted):
    """The scripted teacher."""


def die() -> None:
    """End the driver and this process."""
    os.kill(DRIVER, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(step: str, moment: str, once: Path) -> None:
    """From now on the first publication of this step ends the run before, within or after it."""
    put = storage.put_if_absent

    def dying(url: str, data: bytes) -> bool:
        if not re.search(STEPS[step], url) or once.exists():
            return put(url, data)
        once.touch()
        if moment == "before":
            die()
        if moment == "within":  # the temporary file is whole, and has no name yet
            os.link = lambda *_: die()  # type: ignore[assignment]
        won = put(url, data)
        die()
        return won

    storage.put_if_absent = dying


if "DIE_AT" in os.environ:
    die_at(*os.environ["DIE_AT"].split(), Path(os.environ["DIED"]))

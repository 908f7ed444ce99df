"""Death at one step of a commit; and the scripted teacher as a plug-in that brings it to a run under Ray.

A plug-in is imported by the driver and by every replica. `DIE_AT` says the step and the moment, as in `unit within`;
whoever comes to it first ends the driver and itself.
"""

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

from raystill import storage
from raystill.teachers.scripted import Scripted

STEPS = {"claim": r"/attempts/", "unit": r"/generate/[^/]+/[^/]+\.parquet$", "manifest": r"/generate/.*manifest\.json$"}


class Dying(Scripted):
    """The scripted teacher."""


def arm(moment: str, its_turn: Callable[[str], bool], victim: int) -> None:
    """From now on a publication whose turn it is, by its URL, ends that process and this one before, within or after it."""
    put = storage.put_if_absent

    def die() -> None:
        os.kill(victim, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    def deadly(url: str, data: bytes) -> bool:
        if not its_turn(url):
            return put(url, data)
        if moment == "before":
            die()
        if moment == "within":  # the temporary file is whole, and has no name yet
            os.link = lambda *_: die()
        won = put(url, data)
        die()
        return won

    storage.put_if_absent = deadly


if "DIE_AT" in os.environ:
    # The driver comes here first, and what it sets its replicas inherit through the local Ray that it starts.
    os.environ.setdefault("DRIVER", str(os.getpid()))
    step, moment = os.environ["DIE_AT"].split()
    died = Path(os.environ["DIED"])

    def first(url: str) -> bool:
        """Whether this is the step, and nobody has come to it before."""
        if died.exists() or not re.search(STEPS[step], url):
            return False
        died.touch()
        return True

    arm(moment, first, int(os.environ["DRIVER"]))

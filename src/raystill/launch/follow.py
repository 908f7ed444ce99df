"""Following a run from any machine: what its driver says, until it ends. The run needs nobody who looks."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

from raystill.errors import Interrupted, StageError

SILENCE_S = 5.0
"""After so long without a new line one looks whether the run still goes."""
CHANGED = (
    "the recipe has changed while '{name}' is going, and a run keeps the one it began with; wait for it: raystill wait "
    "{name}; or end it: raystill cancel {name}; or give this recipe another 'name'"
)


@dataclass(frozen=True)
class Look:
    """A run at one moment."""

    state: Literal["going", "done", "failed"]
    lines: list[str]
    """What there is of it, a line each."""
    troubles: list[str] = field(default_factory=list)
    """What keeps its parts from starting."""
    why: str = ""
    """Of a failed one."""
    stuck: str = ""
    """What a person must mend before it can go on; empty while it may by itself."""


class Place(Protocol):
    """Where runs are. All of it is by name, so any machine that may log in there will do. Raises RecipeError for no run."""

    where: str
    """The options by which a command finds it again."""

    def look(self, name: str) -> Look:
        """The run as it is now."""

    def log(self, name: str) -> Iterator[str]:
        """What its driver says, line by line, for ever; an empty line whenever nothing new has come for a while."""

    def cancel(self, name: str) -> str:
        """End it; what is committed stays. Says what was done."""


def follow(place: Place, name: str, say: Callable[[str], None], *, log: bool = True) -> None:
    """Tell what a run says until it ends; without `log` only what keeps it from going on.

    Raises StageError when it failed or cannot go on, Interrupted on Ctrl-C, which leaves it going.
    """
    told: list[str] = []
    ended: Look | None = None
    try:
        for line in place.log(name) if log else _silence():
            if line:
                say(line)
            elif ended:  # and all that it said before its end is told
                break
            else:
                now = place.look(name)
                for trouble in now.troubles:
                    if trouble not in told:
                        say(trouble)
                told = now.troubles
                if now.stuck:
                    raise StageError(f"{now.stuck}; then: raystill cancel {name}{place.where}, and submit again")
                ended = now if now.state != "going" else None
    except KeyboardInterrupt:
        raise Interrupted(
            f"'{name}' goes on without you; look again: raystill logs {name} -f{place.where}; end it: raystill cancel "
            f"{name}{place.where}"
        ) from None
    if ended and ended.state == "failed":
        raise StageError(f"'{name}' failed: {ended.why}; what it said: raystill logs {name}{place.where}")


def so_far(place: Place, name: str) -> Iterator[str]:
    """What a run has said."""
    for line in place.log(name):
        if not line:
            return
        yield line


def status(place: Place, name: str) -> str:
    """A run as text."""
    now = place.look(name)
    said = {"going": "is going", "done": "is done", "failed": f"failed: {now.why}"}[now.state]
    return "\n".join([*now.lines, *now.troubles, f"'{name}' {said}", *filter(None, [now.stuck])])


def _silence() -> Iterator[str]:
    while True:
        time.sleep(SILENCE_S)
        yield ""

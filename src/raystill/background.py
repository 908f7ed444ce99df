"""`raystill run` as a process of this machine that outlives who started it, found again by what lies beside its recipe."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from raystill import planning, storage
from raystill.errors import StageError
from raystill.models import UNRESOLVED

COMMAND = [sys.executable, "-m", "raystill", "run"]
LOOK_S = 0.5
LOG, PROCESS = "log.txt", "process.json"


class Background:
    """Runs of recipe files, each in a folder of its own."""

    def start(self, recipe: Path) -> None:
        """Run a recipe; one that runs already goes on."""
        if running(recipe):
            return
        with recipe.with_name(LOG).open("ab") as log:
            child = subprocess.Popen(
                [*COMMAND, str(recipe)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_hear_interrupts,
            )
        noted = {"pid": child.pid, "born": psutil.Process(child.pid).create_time()}
        recipe.with_name(PROCESS).write_text(json.dumps(noted))

    def state(self, recipe: Path) -> str:
        """NotStarted, Running, Completed or Failed."""
        if running(recipe):
            return "Running"
        if not recipe.with_name(PROCESS).exists():
            return "NotStarted"
        return "Completed" if done(recipe) else "Failed"

    def follow(self, recipe: Path, say: Callable[[str], None]) -> None:
        """Tell what a run says, from its start to its end."""
        log = recipe.with_name(LOG)
        if not log.exists():
            raise StageError(f"{recipe.parent.name} has not been started; client.jobs.create_or_update(job) does")
        with log.open(encoding="utf-8", errors="replace") as lines:
            while True:
                ended = running(recipe) is None
                for line in lines:
                    say(line.rstrip("\n"))
                if ended:
                    return
                time.sleep(LOOK_S)

    def cancel(self, recipe: Path) -> None:
        """Ask a run to stop as Ctrl-C does: what is finished stays."""
        if pid := running(recipe):
            os.kill(pid, signal.SIGINT)


def _hear_interrupts() -> None:
    """What nohup started ignores SIGINT, and so would a run that it starts, until that has its own handler."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def running(recipe: Path) -> int | None:
    """The process of a run that has not ended; one that has got its number since is none."""
    try:
        noted = json.loads(recipe.with_name(PROCESS).read_text())
        process = psutil.Process(noted["pid"])
        same = abs(process.create_time() - noted["born"]) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, psutil.NoSuchProcess):
        return None
    return int(noted["pid"]) if same else None


def done(recipe: Path) -> bool:
    """Whether nothing is left to do; of what lies in a store, which a plan does not ask, a run to its end tells."""
    made = planning.plan(str(recipe))
    if made.recipe is None or made.problems:
        return False
    ran = storage.exists(storage.join(made.recipe.root, "runs", f"{made.recipe.name}.json"))
    return ran and all(step.state in ("done", UNRESOLVED) for step in made.steps)

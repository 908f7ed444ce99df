"""`raystill run` as a process of this machine that outlives who started it, found again by its folder."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from raystill.errors import StageError

COMMAND = [sys.executable, "-m", "raystill", "run"]
LOOK_S = 0.5
RECIPE, LOG, PROCESS, CANCELED = "recipe.yaml", "log.txt", "process.json", "canceled"


def start(folder: Path) -> None:
    """Run the folder's recipe; a run that goes already goes on."""
    if running(folder):
        return
    (folder / CANCELED).unlink(missing_ok=True)
    command = [*COMMAND, str(folder / RECIPE)]
    with (folder / LOG).open("ab") as log:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    born = psutil.Process(child.pid).create_time()
    (folder / PROCESS).write_text(json.dumps({"pid": child.pid, "born": born}))


def running(folder: Path) -> int | None:
    """The process of a run that has not ended; a number that another process has taken over is none."""
    try:
        noted = json.loads((folder / PROCESS).read_text())
        process = psutil.Process(noted["pid"])
        same = abs(process.create_time() - noted["born"]) < 1 and process.status() != psutil.STATUS_ZOMBIE
    except (OSError, psutil.NoSuchProcess):
        return None
    return int(noted["pid"]) if same else None


def state(folder: Path, is_done: Callable[[], bool]) -> str:
    """NotStarted, Running, CancelRequested, Canceled, Completed or Failed, as Azure calls them."""
    canceled = (folder / CANCELED).exists()
    if running(folder):
        return "CancelRequested" if canceled else "Running"
    if not (folder / PROCESS).exists():
        return "NotStarted"
    return "Completed" if is_done() else "Canceled" if canceled else "Failed"


def cancel(folder: Path) -> None:
    """Ask a run to stop as Ctrl-C does: what is finished stays."""
    if pid := running(folder):
        (folder / CANCELED).touch()
        os.kill(pid, signal.SIGINT)


def follow(folder: Path, say: Callable[[str], None]) -> None:
    """Tell what a run says, from its start to its end."""
    log = folder / LOG
    if not log.exists():
        raise StageError(f"{folder.name} has not been started; client.jobs.create_or_update(job) does")
    with log.open(encoding="utf-8", errors="replace") as lines:
        while True:
            ended = running(folder) is None
            for line in lines:
                say(line.rstrip("\n"))
            if ended:
                return
            time.sleep(LOOK_S)

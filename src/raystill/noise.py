"""Keeps what engines print out of the terminal: file descriptors 1 and 2 go to a log, our words to the saved terminal.

Descriptors, not sys.stdout: C libraries and child processes write there without asking Python.
"""

import contextlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

TELLING = re.compile(r"error|exception|failed|killed|out of memory|no space|denied|refused", re.IGNORECASE)
USELESS = re.compile(
    r"EngineDeadError|resource_tracker|graceful_shutdown|listen_for_change|^\s*at 0x|DeprecationWarning|^\s*File |ray\.kill"
)
"""Lines that also stand in the log of a run that went well."""


@contextlib.contextmanager
def engine_log(path: Path) -> Iterator[IO[str]]:
    """Send descriptors 1 and 2 to the log; yield the terminal they went to before. All is put back at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    saved_out, saved_err = os.dup(1), os.dup(2)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    terminal = os.fdopen(os.dup(saved_out), "w", encoding="utf-8", errors="replace")
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        yield terminal
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(saved_out, 1)
        os.dup2(saved_err, 2)
        for descriptor in (saved_out, saved_err, log):
            os.close(descriptor)
        with contextlib.suppress(BrokenPipeError):
            terminal.close()


def telling_lines(path: Path, most: int = 8) -> list[str]:
    """The last lines of a log that say what went wrong, without colours and without what every run prints."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip()[:300] for line in lines]
    return [line for line in plain if TELLING.search(line) and not USELESS.search(line)][-most:]

"""An arm of a bench in a process of its own, of which nothing is left afterwards."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__).parent
POLL_S = 5


def result(script: str, arm: str, job: Mapping[str, Any], limit_s: float, launcher: Sequence[str] = ()) -> Any:
    """What `python script ARM JOB RESULT` writes as JSON, given the job and a scratch `folder` of its own.

    `launcher` goes between the interpreter and the script. Raises RuntimeError with the end of its log when it fails or
    takes too long.
    """
    with tempfile.TemporaryDirectory(prefix="raystill-bench-") as scratch:
        given, made, said = (Path(scratch) / name for name in ("job.json", "result.json", "log"))
        given.write_text(json.dumps({**job, "folder": scratch}))
        command = [sys.executable, *launcher, str(HERE / script), arm, str(given), str(made)]
        with said.open("w") as log:
            ended = _run(command, log, limit_s)
        if ended != 0 or not made.exists():
            tail = "\n".join(said.read_text(errors="replace").splitlines()[-25:])
            raise RuntimeError(f"{arm} {'timed out' if ended is None else f'ended with {ended}'}:\n{tail}")
        return json.loads(made.read_text())


def _run(command: list[str], log: IO[str], limit_s: float) -> int | None:
    """Exit status, None after the limit. Whatever the process started is gone afterwards: engines outlive a crash."""
    import psutil

    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    changed = {
        "PYTHONPATH": os.pathsep.join(paths),  # Ray's workers find the bench's own classes there
        "RAY_worker_niceness": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "RAYLLM_ENABLE_REQUEST_PROMPT_LOGS": "0",
        "HF_HUB_OFFLINE": "1",
    }
    process = subprocess.Popen(command, env=os.environ | changed, stdout=log, stderr=subprocess.STDOUT)
    started: set[Any] = set()
    deadline = time.monotonic() + limit_s
    try:
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(psutil.NoSuchProcess):
                started |= set(psutil.Process(process.pid).children(recursive=True))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL_S)
        return process.poll()
    finally:
        process.kill()
        process.wait()
        _, left = psutil.wait_procs(started, timeout=POLL_S)
        for other in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                other.kill()
        psutil.wait_procs(left, timeout=POLL_S)

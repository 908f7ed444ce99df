"""A recipe with rows, and runs of it: here, as commands, and in processes that may be killed."""

import io
import json
import multiprocessing
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from raystill import pipeline
from raystill.view import Lines

CLEAN = multiprocessing.get_context("forkserver")
"""Starts a process in milliseconds, without the threads of other tests."""
CLEAN.set_forkserver_preload(["raystill.pipeline", "boto3"])


def write(
    folder: Path,
    asked: Mapping[str, str],
    root: str = "",
    teacher: str = "{kind: scripted}",
    generate: str = "{cpus: 1}",
) -> str:
    """The path of a recipe that asks each id's prompt; `teacher` and `generate` (of compute) are blocks of YAML."""
    lines = (json.dumps({"id": i, "prompt": text, "reference": f"answer {i}"}) for i, text in asked.items())
    (folder / "rows.jsonl").write_text("\n".join(lines))
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "config.json").write_text('{"num_hidden_layers": 2}')
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        f"name: faults\ntask: conversation\nroot: {root or folder / 'runs'}\n"
        f"data: {{train: {folder / 'rows.jsonl'}, prompt: prompt, reference: reference, id: id, split: {{test: 0}}}}\n"
        f"teacher: {teacher}\nstudent: {{model: {folder / 'model'}}}\ncompute: {{generate: {generate}}}\n"
    )
    return str(recipe)


def run(recipe: str, only: str) -> None:
    """Run a stage in this process."""
    pipeline.run(recipe, Lines(io.StringIO()), threading.Event(), only=only)


def in_a_clean_process(target: Callable[..., None], *arguments: object) -> int:
    """Call it there, for its exit code: a signal is negative."""
    process = CLEAN.Process(target=target, args=arguments)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def start(recipe: str, *options: str) -> subprocess.Popen[str]:
    """One run, in a process group of its own; all it says is on its stdout."""
    command = [sys.executable, "-m", "raystill", "run", recipe, *options]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def wait_for_units(folder: Path, running: subprocess.Popen[str], least: int) -> None:
    """Until so many are published by a run that goes on."""
    deadline = time.monotonic() + 120
    while len(units(folder)) < least:
        assert running.poll() is None, running.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def ended(running: subprocess.Popen[str], code: int = 0, timeout_s: float = 240) -> str:
    """What a run says that must end with this exit code."""
    said, _ = running.communicate(timeout=timeout_s)
    assert running.returncode == code, said
    return said


def units(folder: Path) -> dict[str, tuple[int, int]]:
    """Published units: name to inode and modification time."""
    found = (folder / "runs" / "generate").glob("*/*.parquet")
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in found}

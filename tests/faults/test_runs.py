"""Whole commands, killed and crossed, with a ledger that reads inputs and outputs by itself."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.slow
CANARY = "canary-7f3a"


def recipe(folder: Path, rows: int = 1500, delay_s: float = 0.0, trouble: str = "") -> str:
    """A recipe with a scripted teacher, and its data."""
    data = [{"id": f"r{i}", "prompt": f"{CANARY} question {i}", "reference": f"answer {i}"} for i in range(rows)]
    if trouble:
        data[rows // 2]["prompt"] += trouble
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, data)))
    path = folder / "recipe.yaml"
    path.write_text(
        f"name: faults\ntask: conversation\nroot: {folder / 'runs'}\n"
        f"data: {{train: {folder / 'rows.jsonl'}, prompt: prompt, reference: reference, id: id, split: {{test: 0}}}}\n"
        f"teacher: {{kind: scripted, scripted: {{delay_s: {delay_s}}}}}\nstudent: {{model: {folder / 'model'}}}\n"
        "compute: {generate: {units_in_flight: 1, cpus: 1}}\n"
    )
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "config.json").write_text('{"num_hidden_layers": 2}')
    return str(path)


def command(path: str, *options: str) -> list[str]:
    return [sys.executable, "-m", "raystill", "run", path, *options]


def start(path: str, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(path, *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def units(folder: Path) -> dict[str, tuple[int, int]]:
    """Published units: name to inode and modification time."""
    found = (folder / "runs" / "generate").glob("*/*.parquet")
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in found}


def wait_for_units(folder: Path, running: subprocess.Popen[str], least: int) -> None:
    deadline = time.monotonic() + 120
    while len(units(folder)) < least:
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def check_ledger(folder: Path) -> None:
    """Every input id is exactly once in the generations, with its own prompt."""
    asked = {r["id"]: r["prompt"] for r in map(json.loads, (folder / "rows.jsonl").read_text().splitlines())}
    manifests = list((folder / "runs" / "generate").glob("*/manifest.json"))
    assert len(manifests) == 1
    files = json.loads(manifests[0].read_text())["files"]
    rows = [r for f in files for r in pq.read_table(manifests[0].parent / f["path"]).to_pylist()]
    assert Counter(r["id"] for r in rows) == Counter(asked.keys())
    assert all(r["messages"][-1]["content"] == asked[r["id"]] for r in rows)


@pytest.mark.parametrize("least", [1, 3])
def test_a_killed_run_goes_on_and_redoes_only_unfinished_units(tmp_path: Path, least: int) -> None:
    path = recipe(tmp_path, delay_s=1.0)
    subprocess.run(command(path, "--only", "prepare"), check=True, capture_output=True)
    running = start(path, "--only", "generate")
    wait_for_units(tmp_path, running, least)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    finished = units(tmp_path)
    subprocess.run(command(path, "--only", "generate"), check=True, capture_output=True)
    after = units(tmp_path)
    assert {name: after[name] for name in finished} == finished
    assert len(after) > len(finished)
    check_ledger(tmp_path)


def test_two_runs_on_one_root_both_finish(tmp_path: Path) -> None:
    path = recipe(tmp_path, rows=600, delay_s=0.2)
    subprocess.run(command(path, "--only", "prepare"), check=True, capture_output=True)
    both = [start(path, "--only", "generate") for _ in range(2)]
    for running in both:
        _, errors = running.communicate(timeout=240)
        assert running.returncode == 0, errors
    check_ledger(tmp_path)


def test_ctrl_c_finishes_the_unit_says_how_to_go_on_and_exits_130(tmp_path: Path) -> None:
    path = recipe(tmp_path, delay_s=1.0)
    subprocess.run(command(path, "--only", "prepare"), check=True, capture_output=True)
    running = start(path, "--only", "generate")
    wait_for_units(tmp_path, running, 1)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=120)
    assert running.returncode == 130
    assert "run the same command to go on" in errors
    subprocess.run(command(path, "--only", "generate"), check=True, capture_output=True)
    check_ledger(tmp_path)


def test_no_prompt_is_in_any_log_or_message(tmp_path: Path) -> None:
    path = recipe(tmp_path, rows=300, trouble=" <<error>>")
    done = subprocess.run(command(path, "--only", "prepare"), check=True, capture_output=True, text=True)
    done = subprocess.run(command(path, "--only", "generate"), check=True, capture_output=True, text=True)
    logs = [p.read_text(errors="replace") for p in (tmp_path / "runs" / "logs").glob("*")]
    rejected = [p.read_text() for p in (tmp_path / "runs").rglob("rejected/*")]
    assert logs
    assert CANARY not in "".join([done.stdout, done.stderr, *logs, *rejected])


def test_only_says_which_step_is_missing(tmp_path: Path) -> None:
    done = subprocess.run(command(recipe(tmp_path), "--only", "curate"), capture_output=True, text=True)
    assert done.returncode == 2
    assert "--only curate needs the result of 'prepare'" in done.stderr

"""Whole commands, killed and crossed, with a ledger that reads inputs and outputs by itself."""

import os
import signal
from pathlib import Path

import pytest
from ledger import check
from runs import ended, run, start, units, wait_for_units, write

pytestmark = pytest.mark.slow
CANARY = "canary-7f3a"
GENERATE = ("--only", "generate")


def rows(n: int = 1500) -> dict[str, str]:
    """Each row's prompt."""
    return {f"r{i}": f"{CANARY} question {i}" for i in range(n)}


def prepared(folder: Path, asked: dict[str, str], delay_s: float = 0.0) -> str:
    """The recipe of a run that takes so long per unit, one after another, after prepare."""
    teacher = f"{{kind: scripted, scripted: {{delay_s: {delay_s}}}}}"
    recipe = write(folder, asked, teacher=teacher, generate="{units_in_flight: 1, cpus: 1}")
    run(recipe, "prepare")
    return recipe


@pytest.mark.parametrize("least", [1, 3])
def test_a_killed_run_goes_on_and_redoes_only_unfinished_units(tmp_path: Path, least: int) -> None:
    recipe = prepared(tmp_path, rows(), delay_s=1.0)
    running = start(recipe, *GENERATE)
    wait_for_units(tmp_path, running, least)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    finished = units(tmp_path)
    ended(start(recipe, *GENERATE))
    after = units(tmp_path)
    assert finished.items() <= after.items()
    assert len(after) > len(finished)
    check(f"{tmp_path}/runs", rows())


@pytest.mark.parametrize(
    "at",
    ["claim before", "claim after", "unit before", "unit within", "unit after", "manifest before", "manifest after"],
)
def test_a_run_killed_at_a_step_of_a_commit_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    monkeypatch.setenv("DIED", str(tmp_path / "died"))
    recipe = write(tmp_path, rows(), teacher="{kind: 'dying:Dying'}", generate="{units_in_flight: 2, cpus: 1}")
    run(recipe, "prepare")
    with monkeypatch.context() as deadly:
        deadly.setenv("DIE_AT", at)
        ended(start(recipe, *GENERATE), -signal.SIGKILL)
    assert (tmp_path / "died").exists()
    finished = units(tmp_path)
    ended(start(recipe, *GENERATE))
    assert finished.items() <= units(tmp_path).items()
    assert check(f"{tmp_path}/runs", rows()).redone <= 2


def test_two_runs_on_one_root_both_finish(tmp_path: Path) -> None:
    recipe = prepared(tmp_path, rows(600), delay_s=0.2)
    for running in [start(recipe, *GENERATE) for _ in range(2)]:
        ended(running)
    check(f"{tmp_path}/runs", rows(600))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_finishes_the_unit_says_how_to_go_on_and_exits_130(tmp_path: Path, number: signal.Signals) -> None:
    recipe = prepared(tmp_path, rows(), delay_s=1.0)
    running = start(recipe, *GENERATE)
    wait_for_units(tmp_path, running, 1)
    running.send_signal(number)
    assert "run the same command to go on" in ended(running, 130)
    ended(start(recipe, *GENERATE))
    check(f"{tmp_path}/runs", rows())


def test_no_prompt_is_in_any_log_or_message(tmp_path: Path) -> None:
    asked = rows(300)
    asked["r150"] += " <<error>>"
    recipe = write(tmp_path, asked)
    said = ended(start(recipe, "--only", "prepare")) + ended(start(recipe, *GENERATE))
    logs = [p.read_text(errors="replace") for p in (tmp_path / "runs" / "logs").glob("*")]
    rejected = [p.read_text() for p in (tmp_path / "runs").rglob("rejected/*")]
    assert logs
    assert CANARY not in "".join([said, *logs, *rejected])


def test_only_says_which_step_is_missing(tmp_path: Path) -> None:
    said = ended(start(write(tmp_path, rows()), "--only", "curate"), 2)
    assert "--only curate needs the result of 'prepare'" in said

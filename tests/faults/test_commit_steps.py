"""A run that is killed at every step of its commits, one after another, and a second run that ends it."""

import itertools
import os
import shutil
import signal
from pathlib import Path

import pytest
from counting import KIND, calls
from dying import arm
from ledger import check
from runs import in_a_clean_process, run, units, write

from raystill.stages import prepare

IN_FLIGHT = 2
ASKED = {f"r{i}": f"question {i}" for i in range(30)}


def recipe_in(folder: Path) -> str:
    return write(folder, ASKED, teacher=f"{{kind: {KIND}}}", generate=f"{{units_in_flight: {IN_FLIGHT}}}")


def run_killed(recipe: str, record: str, step: int, moment: str) -> None:
    """A run that dies before, within or after its step-th publication."""
    left = itertools.count(step - 1, -1)
    arm(moment, lambda _: next(left) == 0, os.getpid())
    os.environ["CALLS"] = record
    run(recipe, "generate")


@pytest.mark.parametrize("moment", ["before", "within", "after"])
def test_a_run_killed_at_any_step_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    monkeypatch.setattr(prepare, "UNIT_ROWS", 16)
    (tmp_path / "prepared").mkdir()
    run(recipe_in(tmp_path / "prepared"), "prepare")
    killed = 0
    for step in itertools.count(1):
        folder = tmp_path / str(step)
        shutil.copytree(tmp_path / "prepared", folder)
        recipe, record = recipe_in(folder), folder / "calls"
        code = in_a_clean_process(run_killed, recipe, str(record), step, moment)
        if not code:
            break
        assert code == -signal.SIGKILL
        killed = step
        published = units(folder)
        monkeypatch.setenv("CALLS", str(record))
        run(recipe, "generate")
        assert published.items() <= units(folder).items()
        ledger = check(f"{folder}/runs", ASKED)
        assert ledger.redone <= IN_FLIGHT
        called = calls(record)
        assert set(called) == set(ASKED)
        assert called.total() - len(ASKED) <= ledger.redone * prepare.UNIT_ROWS
    assert killed == 2 * ledger.units + 1

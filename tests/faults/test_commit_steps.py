"""A run that is killed at every step of its commits, one after another, and a second run that ends it."""

import itertools
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest
from counting import KIND, calls
from dying import arm
from ledger import check, stored
from runs import in_a_clean_process, run, write

from raystill.stages import prepare

IN_FLIGHT = 2
ASKED = {f"r{i}": f"question {i}" for i in range(30)}


def run_killed(recipe: str, environment: Mapping[str, str], step: int, moment: str) -> None:
    """A run that dies before, within or after its step-th publication."""
    os.environ.update(environment)
    left = itertools.count(step - 1, -1)
    arm(moment, lambda _: next(left) == 0, os.getpid())
    run(recipe, "generate")


def kill_at_every_step(moment: str, folder: Path, root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run for each step, below a root of its own; each must come to a clean ledger and redo what was in flight alone."""
    monkeypatch.setattr(prepare, "UNIT_ROWS", 16)
    for step in itertools.count(1):
        here, below = folder / str(step), f"{root}/{step}"
        here.mkdir()
        recipe = write(here, ASKED, below, f"{{kind: {KIND}}}", f"{{units_in_flight: {IN_FLIGHT}}}")
        run(recipe, "prepare")
        monkeypatch.setenv("CALLS", str(here / "calls"))
        code = in_a_clean_process(run_killed, recipe, dict(os.environ), step, moment)
        if code == 0:
            assert (
                step - 1 == 2 * check(below, ASKED).units + 3
            )  # a claim and a unit each, the manifest, the probe's two
            return
        assert code == -signal.SIGKILL
        published, asked_before = dict(stored(f"{below}/generate")), calls(here / "calls")
        run(recipe, "generate")
        ledger = check(below, ASKED)
        assert published.items() <= dict(stored(f"{below}/generate")).items()
        assert ledger.redone <= IN_FLIGHT
        called = calls(here / "calls")
        assert set(called) == set(ASKED)
        assert set(called.values()) <= {1, 2}
        assert called.total() - len(ASKED) <= min(ledger.redone * prepare.UNIT_ROWS, asked_before.total())


@pytest.mark.parametrize("moment", ["before", "within", "after"])
def test_a_run_killed_at_any_step_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    kill_at_every_step(moment, tmp_path, f"{tmp_path}/runs", monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_run_killed_at_any_step_on_s3_goes_on(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    kill_at_every_step(moment, tmp_path, s3, monkeypatch)

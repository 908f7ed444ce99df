"""A budget over the whole run: counted by the second, kept over restarts, and enforced between and within stages."""

import io
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from raystill import meter, planning
from raystill.artifacts import Outcome, Table
from raystill.context import Context
from raystill.errors import Interrupted, OverBudget
from raystill.meter import Meter, metered
from raystill.recipe import Recipe
from raystill.steps import Runner, Step
from raystill.view import Lines


def recipe(root: Path, budget: dict[str, float], **more: Any) -> Recipe:
    given = {"name": "n", "task": "conversation", "data": {"train": "x"}, "teacher": {"kind": "reference"}}
    return Recipe.model_validate(given | {"student": {"model": "a/b"}, "root": str(root), "budget": budget} | more)


@pytest.fixture(autouse=True)
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter, "held_gpus", lambda: 2.0)
    monkeypatch.setattr(meter, "LOOK_S", 0.01)


def test_gpu_hours_and_money_are_counted_and_kept(tmp_path: Path) -> None:
    priced = recipe(tmp_path, {"gpu_hours": 10}, prices={"machine_hour": 32, "machine_gpus": 8})
    first = Meter(priced, threading.Event())
    first.add(1800)
    assert (first.gpu_hours, first.machines_usd) == (1.0, 0.5 * 2 / 8 * 32)
    first.keep()
    second = Meter(priced, threading.Event())
    second.read()
    second.add(3600)
    assert second.machines_usd == pytest.approx(4 + 8)
    second.refuse()
    second.add(4 * 3600)
    with pytest.raises(OverBudget, match=r"spent 11 of its budget\.gpu_hours of 10; .* raise budget\.gpu_hours"):
        second.refuse()


def test_a_machine_without_gpus_counts_whole_and_a_drivers_pod_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter, "held_gpus", lambda: 0.0)
    for compute, hours in (({}, 1.0), ({"kubernetes": {"gpu": "h200"}}, 0.0)):
        counted = Meter(recipe(tmp_path, {"usd": 1}, compute=compute), threading.Event())
        counted.add(3600)
        assert (counted.machine_hours, counted.gpu_hours) == (hours, 0.0)


def test_what_endpoints_cost_counts_with_machines(tmp_path: Path) -> None:
    counted = Meter(recipe(tmp_path, {"usd": 10}, prices={"machine_hour": 1, "machine_gpus": 2}), threading.Event())
    counted.paid["generate"] = 7.0
    counted.add(2 * 3600)
    counted.refuse()
    counted.add(3600)
    with pytest.raises(OverBudget, match=r"spent 10 of its budget\.usd of 10"):
        counted.refuse()


def step(name: str, make: Any) -> Step[Table]:
    return Step(name, "generate", 1, {"name": name}, {}, Table, make)


def test_a_stage_is_stopped_where_it_is_and_goes_on_when_the_budget_is_raised(tmp_path: Path) -> None:
    """Half a second at 2 GPUs is the budget: the first step fits, the second is stopped within, the third never begins."""
    began: list[str] = []

    def quick(context: Context) -> Outcome:
        began.append("quick")
        return Outcome("generations", [], 1, {}, {})

    def long(context: Context) -> Outcome:
        began.append("long")
        if context.stopping.wait(60):
            raise Interrupted("stopped")
        raise AssertionError("nobody stopped it")

    def run(budget: float, second: Any) -> None:
        asked, stopping = recipe(tmp_path, {"gpu_hours": budget}), threading.Event()
        with metered(asked, stopping) as counted:
            do = Runner(asked, Lines(io.StringIO()), stopping, lambda: None, tmp_path, meter=counted)
            for each in (step("quick", quick), step("long", second)):
                do(each)

    with pytest.raises(OverBudget, match=r"what is finished is kept: raise budget\.gpu_hours"):
        run(2 * 0.5 / 3600, long)
    assert began == ["quick", "long"]
    with pytest.raises(OverBudget):  # at once, before anything begins
        run(2 * 0.5 / 3600, long)
    assert began == ["quick", "long"]
    run(1, quick)
    assert began == ["quick", "long", "quick"]


def test_ctrl_c_under_a_budget_is_ctrl_c(tmp_path: Path) -> None:
    asked, stopping = recipe(tmp_path, {"gpu_hours": 1}), threading.Event()

    def stopped(context: Context) -> Outcome:
        raise Interrupted("stopped")

    with metered(asked, stopping) as counted, pytest.raises(Interrupted):
        Runner(asked, Lines(io.StringIO()), stopping, lambda: None, tmp_path, meter=counted)(step("x", stopped))


def test_without_a_budget_nothing_is_counted_or_written(tmp_path: Path) -> None:
    with metered(recipe(tmp_path, {}), threading.Event()) as counted:
        time.sleep(0.05)
    assert counted.gpu_hours == 0 and not list(tmp_path.iterdir())


def test_a_budget_of_which_nothing_could_be_counted_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("raystill.engine.has_gpu", lambda: False)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n')
    values = (
        "name: n\ntask: conversation\ndata: {train: rows.jsonl}\nteacher: {kind: reference}\nstudent: {model: a/b}\n"
    )
    monkeypatch.chdir(tmp_path)
    for budget, says in (("{gpu_hours: 4}", "this machine has none"), ("{usd: 4}", "a budget in money needs a price")):
        (tmp_path / "r.yaml").write_text(f"{values}budget: {budget}\n")
        assert [says in str(problem) for problem in planning.plan("r.yaml").problems] == [True]
    (tmp_path / "r.yaml").write_text(f"{values}budget: {{usd: 4}}\nprices: {{machine_hour: 2}}\n")
    assert not planning.plan("r.yaml").problems

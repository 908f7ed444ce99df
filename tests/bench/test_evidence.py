"""The recipes, intervals and wrong losses of bench/evidence.py; nothing is trained here."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml

from raystill.losses.forward_kl import forward_kl
from raystill.recipe import Recipe

BENCH = "evidence"
BASE = yaml.safe_load((Path(__file__).parents[2] / "jobs" / "evidence-demo.yaml").read_text())


def test_every_arm_is_a_recipe_with_a_student_per_seed(bench: ModuleType) -> None:
    for arm in bench.ARMS:
        recipe = Recipe.model_validate(bench.recipe_of(BASE, arm, 3))
        students = recipe.all_students()
        assert [recipe.train_for(s).seed for s in students.values()] == [0, 1, 2]
        assert (recipe.score is None) == (arm in {"text", "layers"})
    assert "score" not in BASE, "the arms change a copy"


def test_half_the_steps_is_half_the_epochs_of_the_recipe(bench: ModuleType) -> None:
    whole, half = (Recipe.model_validate(bench.recipe_of(BASE, arm, 1)).train.epochs for arm in ("soft", "soft-half"))
    assert half == whole / 2


def test_an_on_policy_arm_learns_for_as_many_epochs_as_the_others(bench: ModuleType) -> None:
    recipe = Recipe.model_validate(bench.recipe_of(BASE, "on-policy", 1))
    (student,) = recipe.all_students().values()
    assert recipe.train_for(student).epochs + recipe.train_in_rounds(student).epochs == BASE["train"]["epochs"]
    assert recipe.on_policy.sampling.max_tokens == BASE["on_policy"]["sampling"]["max_tokens"]


def test_the_interval_over_seeds_is_students_t(bench: ModuleType) -> None:
    low, high = bench.interval_of_seeds([0.1, 0.2, 0.3, 0.4])
    assert (low, high) == pytest.approx((0.25 - 3.182 * 0.12910 / 2, 0.25 + 3.182 * 0.12910 / 2), abs=1e-4)
    assert str(bench.interval_of_seeds([0.1])) == "(nan, nan)"


def test_the_interval_over_rows_narrows_with_rows_that_agree(bench: ModuleType) -> None:
    low, high = bench.interval_of_rows([[0.0, 1.0] * 50, [0.0, 1.0] * 50])
    assert 0.3 < low < 0.5 < high < 0.7
    assert bench.interval_of_rows([[1.0] * 9, [0.0] * 9]) == (0.5, 0.5)


def test_the_table_sets_arms_beside_text(bench: ModuleType) -> None:
    arms = [
        bench.Arm("text", [[0.0, 1.0], [0.0, 0.0]], 10),
        bench.Arm("soft", [[1.0, 1.0], [1.0, 0.0]], 10, [0.9, 0.8]),
    ]
    soft = bench.table(arms, [1.0, 1.0], 0.91)[-1]
    assert "| 0.750 | 1.000 0.500 | 0.750 | +0.500 | [+0.500, +0.500] |" in soft
    assert soft.endswith("| 0.850 |")


def test_the_wrong_losses_are_wrong_where_ours_is_right(bench: ModuleType) -> None:
    wrong = importlib.import_module("wrong_losses")
    teacher_NC = torch.tensor([[0.4, 0.2, 0.4]]).log()
    overconfident_NC = torch.tensor([[0.6, 0.3, 0.1]]).log()
    assert wrong.truncated(teacher_NC, overconfident_NC).item() < 0
    assert wrong.renormalised(teacher_NC, overconfident_NC).item() == pytest.approx(0, abs=1e-6)
    assert forward_kl(teacher_NC, overconfident_NC).item() > 0.1

"""From the best trial to a recipe: each value where it decides, everything else as it was."""

import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from raystill import recipe_file, tuning
from raystill.errors import RecipeError
from raystill.recipe import Recipe
from raystill.recipe_file import chosen
from raystill.reporting.search import Trial
from raystill.view import Lines

SOFT = {"score": {"k": 20}, "train": {"epochs": 2, "loss": {"kind": "jensen_shannon", "temperature": 1}}}
FOUND = {"learning_rate": 0.001, "alpha": 0.5, "beta": 0.25, "temperature": 2.0, "k": 10}


def values(**more: Any) -> dict[str, Any]:
    base = {
        "name": "support",
        "task": "conversation",
        "data": {"train": "x"},
        "teacher": {"model": "t"},
        "student": {"model": "s"},
        "tune": {"alpha": [0.5]},
    }
    return {k: v for k, v in (base | more).items() if v is not None}


def test_one_students_values_go_where_they_decide() -> None:
    given = values(**SOFT, student={"model": "s", "train": {"learning_rate": 0.1}})
    made = chosen(given, "student", FOUND)
    assert "tune" not in made
    assert made["student"]["train"] == {"learning_rate": 0.001}
    assert made["train"] == {"epochs": 2, "loss": {"kind": "jensen_shannon", "alpha": 0.5, "beta": 0.25}}
    assert made["score"] == {"k": 10, "temperature": 2.0}
    assert given["train"]["loss"] == {"kind": "jensen_shannon", "temperature": 1}


def test_of_several_students_one_is_changed() -> None:
    given = values(**SOFT, student=None, students={"a": {"model": "s"}, "b": {"model": "s"}})
    made = Recipe.model_validate(chosen(given, "b", FOUND | {"batch_size": 8}))
    one, other = (made.train_for(made.all_students()[name]) for name in ("b", "a"))
    assert (one.learning_rate, one.batch_size, one.loss.kind, one.loss.alpha) == (0.001, 8, "jensen_shannon", 0.5)
    assert (other.learning_rate, other.batch_size, other.loss.alpha) == (2e-5, 32, 1.0)
    assert one.loss.temperature is other.loss.temperature is None


def test_the_best_becomes_a_recipe_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values(**SOFT, name="a" * 40)))
    text = tuning.as_recipe(recipe_file.load(str(path)), Trial(FOUND, [1.5, 1.25], "whole"), 3)
    assert "best of 3 trials" in text and "1.25" in text.splitlines()[1]
    made = Recipe.model_validate(yaml.safe_load(text))
    assert made.name == "a" * 34 + "-tuned"
    assert (made.train.learning_rate, made.score and made.score.temperature, made.tune) == (0.001, 2.0, None)


def test_a_recipe_is_never_replaced_and_nothing_is_searched_unasked(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values()))
    (tmp_path / "support-tuned.yaml").write_text("mine")
    with Path("/dev/null").open("w") as out:
        arguments = (str(path), None, Lines(out), threading.Event())
        with pytest.raises(RecipeError, match="exists and is not replaced"):
            tuning.tune(*arguments)
        path.write_text(yaml.safe_dump(values(tune=None)))
        with pytest.raises(RecipeError, match="does not say what to search"):
            tuning.tune(*arguments)
    assert (tmp_path / "support-tuned.yaml").read_text() == "mine"

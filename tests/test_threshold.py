"""threshold: what is measured, what is said of it, and what cannot be."""

import threading

import pytest

from raystill import recipe_file, threshold
from raystill.artifacts import Manifest, Table, commit, write_part
from raystill.errors import DataError, RecipeError
from raystill.metrics.cascade import Case, cuts, least
from raystill.recipe import Recipe
from raystill.records import Answer, Message, Prompt, Sure


@pytest.fixture
def recipe() -> Recipe:
    return recipe_file.of(
        {
            "name": "t",
            "task": {"parse": {"choices": ["yes", "no"]}},
            "data": {"train": "x.jsonl"},
            "teacher": {"model": "t"},
            "student": {"model": "s"},
        }
    )


def prompts(url: str, *references: str | None) -> Table:
    rows = [
        Prompt(str(i), None, [Message("user", "?")], None, "own", "x", "validation", reference, "{}")
        for i, reference in enumerate(references)
    ]
    return commit(
        Table, url, Manifest("p", 1, "prepare", 1, "f", {}, {}, [write_part(url, "validation", Prompt, rows)])
    )


def by_teacher(row: str, text: str, error: str | None = None) -> Answer:
    return Answer(row, "teacher", "validation", text, "stop", 1, 1, 0.1, 0.1, error)


def test_rows_that_both_answered_are_judged_by_the_task(recipe: Recipe, tmp_path: object) -> None:
    asked = prompts(str(tmp_path), "yes", "no", None, "yes")
    sure = [Sure("0", "yes", 0.9), Sure("1", "perhaps", 0.8), Sure("2", "no", 0.7), Sure("3", "no", 0.6)]
    taught = [by_teacher("0", "no"), by_teacher("1", "No."), by_teacher("2", "yes"), by_teacher("3", "", "HTTP 500")]
    assert threshold.cases(recipe, asked, sure, taught) == [Case(0.9, True, 1.0, 0.0), Case(0.8, False, 0.0, 1.0)]


def test_without_references_it_says_why_it_cannot(recipe: Recipe, tmp_path: object) -> None:
    with pytest.raises(DataError, match=r"data\.reference"):
        threshold.cases(recipe, prompts(str(tmp_path), None), [Sure("0", "yes", 0.9)], [by_teacher("0", "yes")])


def test_without_a_hosted_teacher_it_says_why_it_cannot(recipe: Recipe) -> None:
    with pytest.raises(RecipeError, match="hosted teacher"):
        threshold.threshold(recipe, {}, 0.9, None, threading.Event())  # type: ignore[arg-type]


CASES = [Case(0.9, True, 1, 1)] * 6 + [Case(0.4, True, 0, 1)] * 4


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        (1.0, "below: 0.6500"),
        (0.6, "check: true"),
        (1.01, "no threshold reaches accuracy 1.01, the best one 1.000"),
    ],
)
def test_what_is_printed(wanted: float, says: str) -> None:
    told = threshold.Threshold(wanted, least(cuts(CASES), wanted), CASES, 200).text()
    assert says in told
    assert "the student alone reaches 0.600, the teacher alone 1.000 (10 validation rows)" in told
    if wanted == 1.0:
        assert "40.0% of the rows go to the teacher" in told

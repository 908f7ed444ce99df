import json
from typing import Any

import pytest

from raystill import recipe
from raystill.records import Prompt
from raystill.tasks.qa import Qa

TASK = Qa((), recipe.Task(kind="qa"))


def prompt(reference: str | None = None, **columns: Any) -> Prompt:
    return Prompt("1", None, [], None, "qa", "rows.jsonl:1", "test", reference, json.dumps(columns))


@pytest.mark.parametrize(
    ("asked", "text", "accuracy", "overlap"),
    [
        (prompt("The Eiffel Tower"), "eiffel tower.", 1, 1),
        (prompt("Paris"), "It lies in Paris", 0, 2 / 5),
        (prompt("Paris"), "The capital, so:\nAnswer: Paris", 1, 1),
        (prompt("Paris"), "", 0, 0),
        (prompt("NYC", answers=["New York", "New York City"]), "New York City", 1, 1),
        (prompt(answers={"text": ["12 May"], "answer_start": [3]}), "on 12 May", 0, 4 / 5),
        (prompt("Paris", answers=7), "Paris", 1, 1),
    ],
)
def test_answers_are_compared_with_every_right_one(asked: Prompt, text: str, accuracy: float, overlap: float) -> None:
    assert TASK.score(asked, text) == {"accuracy": accuracy, "token_f1": pytest.approx(overlap)}


def test_without_a_right_answer_nothing_is_scored() -> None:
    assert TASK.score(prompt(), "Paris") == {}


def test_equal_answers_agree_and_empty_ones_are_dropped() -> None:
    assert TASK.parse("The Tower!") == TASK.parse("tower")
    assert TASK.check(prompt(), "Answer: ...") == "no answer"
    assert TASK.check(prompt(), "Paris") is None
    assert TASK.measure(["Answer: Paris", "paris"], ["Paris", "Paris"])["exact_match"].point() == 0.5

from typing import Any

import pytest

from raystill import recipe
from raystill.errors import RecipeError
from raystill.records import Prompt
from raystill.tasks import own


def task(**block: Any) -> own.Own:
    return own.Own((), recipe.Task.model_validate(block))


def prompt(reference: str | None) -> Prompt:
    return Prompt("1", None, [], None, "own", "rows.jsonl:1", "test", reference, "{}")


CHOICES = task(parse={"choices": ["low", "high"]}, metrics=["accuracy", "macro_f1"])
REGEX = task(parse={"regex": r"Priority:\s*(\w+)"})
JSON = task(parse={"json_path": "ticket.priority"})


@pytest.mark.parametrize(
    ("judge", "text", "said", "fault"),
    [
        (CHOICES, "It is high.", "high", None),
        (CHOICES, "low or high", None, "names no single choice"),
        (REGEX, "Priority: low? No. Priority: high", "high", None),
        (REGEX, "high", None, "does not match task.parse.regex"),
        (JSON, '```json\n{"ticket": {"priority": "high"}}\n```', "high", None),
        (JSON, '{"ticket": {"priority": "hi', None, "no JSON with a value at task.parse.json_path"),
        (JSON, '{"priority": "high"}', None, "no JSON with a value at task.parse.json_path"),
        (task(metrics=["bleu"]), " all  of it ", "all of it", None),
        (task(metrics=["bleu"]), " ", None, "no answer"),
        (task(parse={"choices": ["low", "high"]}, chain_of_thought=True), "Not low.\nAnswer: high", "high", None),
    ],
)
def test_an_answer_is_read_as_the_recipe_says(judge: own.Own, text: str, said: str | None, fault: str | None) -> None:
    assert (judge.parse(text), judge.check(prompt(None), text)) == (said, fault)


def test_references_are_answers_or_what_they_should_say() -> None:
    assert REGEX.score(prompt("Priority: high"), "Priority: high") == {"accuracy": 1.0}
    assert REGEX.score(prompt("high"), "Priority: high") == {"accuracy": 1.0}
    assert CHOICES.score(prompt("High."), "high") == {"accuracy": 1.0}
    assert CHOICES.score(prompt("medium"), "high") == {}
    assert JSON.score(prompt("high"), '{"ticket": {"priority": "low"}}') == {"accuracy": 0.0}
    assert JSON.score(prompt('{"ticket": '), "{}") == JSON.score(prompt(None), "{}") == {}


def test_metrics_are_over_what_is_read() -> None:
    made = CHOICES.measure(["it is low", "high", "?"], ["low", "high", "high"])
    assert list(made) == ["macro_f1", "f1:high", "f1:low"]
    assert made["f1:low"].point() == 1
    made = task(parse={"regex": "<(.*)>"}, metrics=["token_f1", "exact_match"]).measure(["so <a red rug>"], ["red rug"])
    assert (made["token_f1"].point(), made["exact_match"].point()) == (1, 0)
    assert task(metrics=["chrf"]).score(prompt("x"), "x") == {}


def test_a_slow_regex_reads_nothing() -> None:
    assert task(parse={"regex": "(a|aa)+$"}).parse("a" * 200 + "b") is None


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ({"parse": {"regex": "("}}, "no valid regex"),
        ({"metrics": ["blue"]}, "did you mean 'bleu'"),
    ],
)
def test_mistakes_say_what_to_type(block: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        own.mistake(recipe.Task.model_validate(block))

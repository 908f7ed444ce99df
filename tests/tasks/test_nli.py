import pytest

from raystill import recipe
from raystill.records import Prompt
from raystill.tasks.nli import Nli

TASK = Nli((), recipe.Task(kind="nli"))


def prompt(reference: str | None) -> Prompt:
    return Prompt("1", None, [], None, "nli", "rows.jsonl:1", "test", reference, "{}")


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Entailment.", "entailment"),
        ("It may be true, but not surely.\nAnswer: neutral", "neutral"),
        ("The premise speaks of a contradiction.\nAnswer: **contradiction**", "contradiction"),
        ("entailment or neutral", None),
        ("It is not entailment", None),
        ("yes", None),
    ],
)
def test_an_answer_names_one_label(text: str, label: str | None) -> None:
    assert TASK.parse(text) == label
    assert TASK.check(prompt(None), text) == (None if label else "names no single label")


def test_references_are_labels_or_numbers_and_others_are_none() -> None:
    assert TASK.score(prompt("2"), "contradiction") == {"accuracy": 1.0}
    assert TASK.score(prompt("Neutral"), "entailment") == {"accuracy": 0.0}
    assert TASK.score(prompt("-1"), "neutral") == TASK.score(prompt(None), "neutral") == {}


def test_f1_leaves_out_rows_without_a_label() -> None:
    made = TASK.measure(["entailment", "neutral", "neutral"], ["0", "1", "-1"])
    assert list(made) == ["macro_f1", "f1:entailment", "f1:neutral"]
    assert made["macro_f1"].point() == 1 and len(made["macro_f1"].rows_RS) == 2


def test_labels_of_ones_own() -> None:
    task = Nli((), recipe.Task(kind="nli", labels=["entailment", "not_entailment"]))
    assert task.parse("Not entailment.") == "not_entailment"
    assert task.score(prompt("1"), "not_entailment") == {"accuracy": 1.0}

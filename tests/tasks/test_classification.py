import pytest

from raystill import recipe
from raystill.records import Prompt
from raystill.tasks.classification import Classification

LABELS = {"card_arrival", "card", "Refund not showing up", "top up", "top_up_failed", "C", "C++"}


def task(labels: set[str]) -> Classification:
    return Classification(labels, recipe.Task(kind="classification"))


def prompt(reference: str | None) -> Prompt:
    return Prompt("1", None, [], None, "classification", "rows.jsonl:1", "test", reference, "{}")


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("card_arrival", "card_arrival"),
        (" Card Arrival.\n", "card_arrival"),
        ("The label is: **card-arrival**", "card_arrival"),
        ("card", "card"),
        ("cards", None),
        ("It is top_up_failed", "top_up_failed"),
        ("card or top up", None),
        ("top up. Yes, top up!", "top up"),
        ("It is not card_arrival", None),
        ("That isn\u2019t top up", None),
        ("refund not showing up", "Refund not showing up"),
        ("C++", "C++"),
        ("c++ I think", None),
        ("", None),
        ("no idea", None),
    ],
)
def test_the_answer_is_read_only_where_it_is_unambiguous(text: str, label: str | None) -> None:
    assert task(LABELS).parse(text) == label


def test_overlapping_labels_are_ambiguous() -> None:
    assert task({"card arrival", "arrival time"}).parse("card arrival time, I think") is None


def test_check_and_score() -> None:
    made = task(LABELS)
    assert made.check(prompt("card"), "card!") is None
    assert made.check(prompt("card"), "something else") == "names no single label"
    assert made.score(prompt("card"), "CARD") == {"accuracy": 1.0}
    assert made.score(prompt("card"), "card arrival") == {"accuracy": 0.0}
    assert made.score(prompt(None), "card") == {}


def test_a_label_of_held_out_rows_alone_counts_to_the_letter() -> None:
    assert task(LABELS).score(prompt("atm"), "atm") == {"accuracy": 1.0}


def test_without_references_every_answer_may_be_a_label() -> None:
    assert task(set()).check(prompt(None), "anything") is None

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from raystill import recipe
from raystill.records import Prompt
from raystill.tasks.classification import Classification

BANKING77 = Path(__file__).parents[3] / "shared" / "data" / "banking77" / "train.csv"
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


@pytest.mark.skipif(
    not BANKING77.exists(), reason="Banking77 is not beside the checkout (shared/data/banking77/train.csv)"
)
def test_every_intent_of_banking77_is_read_as_models_write_it() -> None:
    with BANKING77.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    intents = sorted({row["category"] for row in rows})
    made = task(set(intents))
    assert len(intents) == 77
    for intent in intents:
        spoken = intent.replace("_", " ").strip("?").capitalize()
        for text in (intent, f"Intent: {spoken}.", f'The intent is "{intent}".', spoken.upper()):
            assert made.parse(text) == intent
    said = [row["category"] for row in rows]
    assert made.measure(said, said)["macro_f1"].point() == 1
    assert all(made.score(replace(prompt(None), reference=c), c) == {"accuracy": 1.0} for c in said[:500])

import json
from typing import Any

import pytest

from raystill import recipe
from raystill.errors import DataError
from raystill.records import Prompt
from raystill.tasks.conversation import PATTERN_CHARS, Conversation

TASK = Conversation((), recipe.Task(kind="conversation"))


def prompt(reference: str | None = None, **columns: Any) -> Prompt:
    return Prompt("row-7", None, [], None, "conversation", "rows.jsonl:7", "test", reference, json.dumps(columns))


def test_without_columns_accuracy_is_the_reference_but_for_whitespace() -> None:
    assert TASK.score(prompt("All is well."), " All  is\nwell. ") == {"accuracy": 1.0, "refusals": 0.0}
    assert TASK.score(prompt("All is well."), "all is well.") == {"accuracy": 0.0, "refusals": 0.0}
    assert TASK.score(prompt(), "anything") == {"refusals": 0.0}
    assert TASK.check(prompt("All is well."), "anything") is None


def test_columns_of_the_data_mean_nothing_without_must_include() -> None:
    assert TASK.check(prompt(style="formal", must_not_include=["x"]), "x") is None


@pytest.mark.parametrize(
    ("columns", "text", "fault"),
    [
        ({"must_include": ["#4821", "red rug"]}, "Order #4821, the red rug.", None),
        ({"must_include": ["#4821", "red rug"]}, "Order #4821, the Red rug.", "required fact missing"),
        ({"must_include": ["#4821"]}, "Order #48217.", "required fact missing"),
        ({"must_include": ["rug"]}, "a drug", "required fact missing"),
        ({"must_include": ["4821"]}, "订单4821已发货", None),
        ({"must_include": ["order 4821"], "must_not_include": ["482"]}, "It is order 4821.", None),
        ({"must_include": ["order 4821"], "must_not_include": ["4821"]}, "It is order 4821.", None),
        ({"must_include": ["order 4821"], "must_not_include": ["4821"]}, "order 4821 or 4821", "forbidden fact"),
        ({"must_include": [], "must_not_include": ["refund"]}, "No refund.", "forbidden fact"),
        ({"must_include": ["#12"], "fact_patterns": [r"#\d+"]}, "#12, again #12", None),
        ({"must_include": ["#12"], "fact_patterns": [r"#\d+"]}, "#12, not #13", "wrong fact"),
        ({"must_include": ["#12"], "fact_patterns": [r"\d*"]}, "#12", "wrong fact"),
        ({"must_include": ["12"], "fact_patterns": [r"\d*"]}, "#12", None),
        ({"must_include": [], "style": r"Hello! .*\."}, " Hello! Two\nlines. ", None),
        ({"must_include": [], "style": r"Hello! .*\."}, "Hello! Bye", "not in the style"),
        ({"must_include": [], "style": ".*"}, "x" * 9000, "too long to judge"),
    ],
)
def test_facts_of_the_row(columns: dict[str, Any], text: str, fault: str | None) -> None:
    assert TASK.check(prompt(**columns), text) == fault
    assert TASK.score(prompt("other", **columns), text) == {"accuracy": float(fault is None), "refusals": 0.0}


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"must_include": "4821"}, "'must_include' is no list of texts"),
        ({"must_include": [""]}, "'must_include' is no list of texts"),
        ({"must_include": [], "fact_patterns": [1]}, "'fact_patterns' is no list of texts"),
        ({"must_include": [], "fact_patterns": ["("]}, "'fact_patterns' holds no valid regex"),
        ({"must_include": [], "style": ["a"]}, "'style' is no text"),
        ({"must_include": [], "style": "a" * (PATTERN_CHARS + 1)}, "shorten it to 500"),
        ({"must_include": [], "style": "(a|aa)+$"}, "'style' holds a regex that ran for 1 s"),
    ],
)
def test_wrong_columns_name_the_row_and_what_to_type(columns: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=r"row row-7 .rows.jsonl:7.") as caught:
        TASK.check(prompt(**columns), "a" * 200 + "b")
    assert said in str(caught.value)
    assert "aab" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "refuses"),
    [
        ("I can't help with that.", True),
        ("I\u2019m sorry, but I cannot assist you here.", True),
        ("We are unable to provide refunds by phone.", True),
        ("I can help with that.", False),
        ("I can't find order #12, which is it?", False),
        ("x" * 300 + " I can't help with that.", False),
    ],
)
def test_refusals_open_an_answer(text: str, refuses: bool) -> None:
    assert TASK.score(prompt(), text) == {"refusals": float(refuses)}

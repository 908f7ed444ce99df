from dataclasses import replace

from raystill.filters import Rules, columns_of
from raystill.filters.duplicate import duplicate
from raystill.filters.empty import empty
from raystill.filters.overlong import overlong
from raystill.filters.task import task
from raystill.filters.truncated import truncated
from raystill.records import Generation, Message

RULES = Rules(max_tokens=10, parse=str.lower, check=lambda prompt, text: None if text == prompt.reference else "wrong")
ROW = Generation("1", None, [Message("user", "hi")], None, "t", "f", "train", "yes", "{}", text="yes", output_tokens=10)


def test_empty() -> None:
    assert empty([ROW, replace(ROW, text=" \n")], RULES) == [None, "empty"]


def test_truncated() -> None:
    assert truncated([ROW, replace(ROW, finish_reason="length")], RULES) == [None, "truncated"]


def test_overlong() -> None:
    assert overlong([ROW, replace(ROW, output_tokens=11)], RULES) == [None, "overlong"]


def test_task_gives_the_checks_reason() -> None:
    assert task([ROW, replace(ROW, text="no")], RULES) == [None, "wrong"]


def test_duplicate_keeps_the_first_of_equal_messages_and_answers() -> None:
    same = replace(ROW, id="2", sample_index=3)
    other_prompt = replace(ROW, id="3", messages=[Message("user", "hello")])
    other_answer = replace(ROW, id="4", text="no")
    rows = [ROW, same, other_prompt, other_answer, replace(other_answer, id="5")]
    assert duplicate(rows, RULES) == [None, "duplicate", None, None, "duplicate"]
    assert columns_of(duplicate) == ("messages", "tools", "text", "reasoning", "tool_calls")
    assert columns_of(empty) is None

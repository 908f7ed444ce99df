"""Answers told apart by vLLM's own parsers."""

import json
from pathlib import Path
from typing import Any

import pytest

from raystill.errors import RecipeError
from raystill.teachers.parts import Parser, Parts

pytest.importorskip("vllm")


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(tiny_model)
    words.add_tokens(["<think>", "</think>", "<tool_call>", "</tool_call>"])
    return words


def test_reasoning_is_kept_apart(tokenizer: Any) -> None:
    parser = Parser(tokenizer, "deepseek_r1", None)
    assert parser.split("<think>Two and two.</think>\n\nFour.", None) == Parts("Four.", "Two and two.")
    assert parser.needs_marks


def test_an_answer_cut_while_thinking_has_no_text(tokenizer: Any) -> None:
    assert Parser(tokenizer, "deepseek_r1", None).split("Two and", None) == Parts("", "Two and")


def test_without_a_parser_the_answer_is_whole(tokenizer: Any) -> None:
    assert Parser(tokenizer, None, None).split(" <think>a</think> b ", None) == Parts("<think>a</think> b")


def test_tool_calls_are_read_where_tools_are_offered(tokenizer: Any) -> None:
    said = '<tool_call>{"name": "find_order", "arguments": {"number": 7}}</tool_call>'
    tools = json.dumps([{"type": "function", "function": {"name": "find_order", "parameters": {"type": "object"}}}])
    parser = Parser(tokenizer, None, "hermes")
    called = parser.split(said, tools)
    assert called.text == ""
    (call,) = json.loads(called.tool_calls or "[]")
    assert call["function"]["name"] == "find_order"
    assert json.loads(call["function"]["arguments"]) == {"number": 7}
    assert parser.split(said, None).text == said


def test_an_unknown_parser_is_named_with_those_there_are(tokenizer: Any) -> None:
    with pytest.raises(RecipeError, match=r"no teacher\.reasoning_parser 'deepsek'.*deepseek_r1"):
        Parser(tokenizer, "deepsek", None)


def test_a_parser_of_another_family_is_refused(tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    with pytest.raises(RecipeError, match="does not fit this model's tokenizer"):
        Parser(AutoTokenizer.from_pretrained(tiny_model), "deepseek_r1", None)

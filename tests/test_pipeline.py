"""What the line says about its models, without running anything."""

from typing import Any

import pytest

from raystill import pipeline
from raystill.artifacts import Checkpoint, Table
from raystill.recipe import Recipe


def recipe(teacher: dict[str, Any], **more: Any) -> Recipe:
    values = {"name": "a", "task": "conversation", "data": {"train": "x"}, "student": {"model": "s"}}
    return Recipe.model_validate(values | {"teacher": {"model": "t"} | teacher} | more)


def answer_print(name: str, made: Recipe) -> str:
    models = {n: Checkpoint(n, n) for n in ("teacher", "student")}
    line = pipeline.Line(Table("p", "p"), {}, Table("e", "e"), models)
    return pipeline.answered(made, name, line, lambda _context: pytest.fail("served")).fingerprint


def test_a_served_teacher_is_told_what_generate_was_told() -> None:
    thinking = {
        "engine": {"quantization": "fp8"},
        "chat_template_kwargs": {"enable_thinking": False},
        "reasoning_parser": "qwen3",
    }
    made = recipe(thinking, compute={"generate": {"tensor_parallel": 4}})
    assert pipeline.served_as(made, "teacher") == {
        "quantization": "fp8",
        "tensor_parallel_size": 4,
        "default_chat_template_kwargs": {"enable_thinking": False},
        "reasoning_parser": "qwen3",
    }
    assert pipeline.served_as(made, "student") == {}
    assert pipeline.served_as(recipe({}), "teacher") == {}


def paid_print(sampling: dict[str, Any], **more: Any) -> str:
    endpoint = {"url": "https://h", "model": "m"}
    made = recipe({"model": None, "kind": "endpoint", "endpoint": endpoint, "sampling": sampling}, **more)
    return pipeline.answered_paid(made, pipeline.Line(Table("p", "p"), {}, Table("e", "e"), {})).fingerprint


def test_held_out_answers_are_paid_anew_only_for_what_they_are_asked_with() -> None:
    plain = paid_print({})
    assert plain == paid_print({"n": 4, "temperature": 1.0, "max_tokens": 9})
    others = [{"top_p": 0.5}, {"seed": 3}]
    assert plain not in [paid_print(sampling) for sampling in others]
    assert plain not in [paid_print({}, evaluate=changed) for changed in ({"max_tokens": 9}, {"limit": 3})]


def test_models_are_compared_without_a_prefix_cache() -> None:
    cached = recipe({"engine": {"enable_prefix_caching": True, "quantization": "fp8"}})
    assert pipeline.compared_as(cached, "teacher") == {"quantization": "fp8", "enable_prefix_caching": False}
    assert pipeline.compared_as(cached, "student") == {"enable_prefix_caching": False}


def test_its_answers_are_made_anew_when_that_changes_and_not_when_it_moves() -> None:
    plain, thinking = recipe({}), recipe({"chat_template_kwargs": {"enable_thinking": True}})
    assert answer_print("teacher", plain) != answer_print("teacher", thinking)
    assert answer_print("student", plain) == answer_print("student", thinking)
    assert answer_print("teacher", plain) == answer_print(
        "teacher", recipe({}, compute={"generate": {"tensor_parallel": 4}})
    )

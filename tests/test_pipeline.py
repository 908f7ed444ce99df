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
    line = pipeline.Line(Table("p", "p"), {}, Table("e", "e"), {})
    return pipeline.answered_paid(made, line, 0.0).fingerprint


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


def speed_print(evaluate: dict[str, Any]) -> str:
    made = recipe({}, evaluate=evaluate)
    line = pipeline.Line(Table("p", "p"), {}, Table("e", "e"), {"student": Checkpoint("s", "s")})
    return pipeline.measured(made, "student", line, lambda _: pytest.fail("served"), {}, list).fingerprint


def test_a_speed_is_measured_anew_for_what_decides_it_alone() -> None:
    plain, searched = speed_print({}), speed_print({"objective": {"latency_p95_s": 1}})
    assert plain == speed_print({"max_users": 9, "judge": {"model": "student"}, "concurrency": 2})
    assert len({plain, searched, speed_print({"objective": {"latency_p95_s": 1}, "max_users": 9})}) == 3


def judge_print(judge: dict[str, Any], answers: str = "a", **more: Any) -> str:
    made = recipe({}, evaluate={"judge": {"endpoint": {"url": "https://h", "model": "m"}} | judge}, **more)
    line = pipeline.Line(Table("p", "p"), {}, Table("e", "e"), {}, answers={"student": Table(answers, answers)})
    assert made.evaluate.judge and made.evaluate.judge.endpoint
    decides = made.evaluate.judge.endpoint.identity()
    return pipeline.judged(
        made, made.evaluate.judge, line, decides, {}, lambda _: pytest.fail("asked"), 0.0
    ).fingerprint


def test_verdicts_are_paid_anew_for_other_answers_another_judge_or_another_question() -> None:
    plain = judge_print({})
    assert plain == judge_print({"votes": "elsewhere"}, budget={"usd": 3}, prices={"machine_hour": 2})
    priced = {"endpoint": {"url": "https://h", "model": "m", "price": {"input": 1, "output": 1}}}
    assert plain == judge_print(priced)
    others = [
        {"rubric": "It rhymes."},
        {"mode": "rubric"},
        {"rows": 9},
        {"endpoint": {"url": "https://h", "model": "n"}},
    ]
    assert plain not in [judge_print({}, "b"), *(judge_print(other) for other in others)]


def test_what_a_judge_may_cost_is_what_all_others_have_left() -> None:
    from raystill.artifacts import Manifest

    def paid(usd: float) -> Table:
        return Table("t", "t", Manifest("t", 1, "t", 1, "t", {}, {}, [], {"cost": usd}))

    suite = pipeline.Suited(Table("h", "h"), {"teacher": paid(0.5)})
    line = pipeline.Line(
        Table("p", "p"),
        {"teacher": paid(1.0)},
        Table("e", "e"),
        {},
        answers={"teacher": paid(2.0)},
        suites={"h": suite},
    )
    assert pipeline.left_of(recipe({}, budget={"usd": 5}), line.answered(), 0.0) == 1.5
    assert pipeline.left_of(recipe({}, budget={"usd": 3}), line.answered(), 0.0) == 0.0
    assert pipeline.left_of(recipe({}), line.answered(), 0.0) is None

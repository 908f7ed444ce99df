"""The transformers teacher with a tiny random model: batches change nothing, and rows end as they should."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from raystill import chat
from raystill.errors import RecipeError
from raystill.recipe import Teacher
from raystill.records import Generation, Message, Prompt
from raystill.teachers import RowError, transformers
from raystill.teachers.transformers import Transformers


def prompt(i: int, text: str) -> Prompt:
    return Prompt(f"r{i}", None, [Message("user", text)], None, "t", "f", "train", None, "{}")


def made(model: Path, **teacher: Any) -> Transformers:
    return Transformers(Teacher.model_validate({"kind": "transformers", "model": str(model), **teacher}), str(model))


def answers(teacher: Transformers, texts: list[str]) -> list[list[Generation]]:
    async def all_of_them() -> list[list[Generation]]:
        return list(await asyncio.gather(*(teacher.answer(prompt(i, t)) for i, t in enumerate(texts))))

    return asyncio.run(all_of_them())


def test_greedy_answers_are_those_of_one_at_a_time(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["hello", "Where is my order 10482?" * 3, "a", "What is your return policy?"]
    sampling = {"temperature": 0, "max_tokens": 6}
    together = answers(made(tiny_model, sampling=sampling), texts)
    monkeypatch.setattr(transformers, "BATCH_TOKENS", 1)
    alone = answers(made(tiny_model, sampling=sampling), texts)
    assert [[g.completion_ids for g in rows] for rows in together] == [[g.completion_ids for g in r] for r in alone]
    assert all(0 < g.output_tokens <= 6 for rows in together for g in rows)


def test_samples_differ_and_the_seed_repeats_them(tiny_model: Path) -> None:
    sampling = {"temperature": 1.0, "max_tokens": 12, "n": 3}
    first, again = (answers(made(tiny_model, sampling=sampling), ["hello"])[0] for _ in range(2))
    assert [g.sample_index for g in first] == [0, 1, 2]
    assert len({tuple(g.completion_ids) for g in first}) == 3
    assert [g.completion_ids for g in first] == [g.completion_ids for g in again]


def test_an_answer_ends_with_one_stop_token(tiny_model: Path) -> None:
    rows = answers(made(tiny_model, sampling={"temperature": 3.0, "max_tokens": 400, "n": 2}), ["a", "b", "c"])
    stop = chat.stop_id(chat.load_tokenizer(str(tiny_model)))
    ended = [g for r in rows for g in r if g.finish_reason == "stop"]
    assert ended
    assert all(list(g.completion_ids).count(stop) == 1 and g.completion_ids[-1] == stop for g in ended)


def test_a_prompt_beyond_the_context_is_a_row_error(tiny_model: Path) -> None:
    with pytest.raises(RowError, match="longer than the teacher's context"):
        answers(made(tiny_model), ["long " * 600])


def test_what_only_an_engine_can_do_is_refused(tiny_model: Path) -> None:
    with pytest.raises(RecipeError, match=r"teacher\.sampling\.structured needs vLLM"):
        made(tiny_model, sampling={"structured": {"choice": ["a", "b"]}})

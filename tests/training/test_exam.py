from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from raystill import chat
from raystill.recipe import Task
from raystill.records import Message, Prompt
from raystill.tasks.classification import Classification
from raystill.training import documents, exam
from raystill.training.exam import Exam


@pytest.fixture(scope="module", autouse=True)
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    store = tmp_path_factory.mktemp("group") / "store"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def prompt(i: int, reference: str | None) -> Prompt:
    messages = [Message("user", "where is it? " * (1 + i % 3))]
    return Prompt(f"r{i}", None, messages, None, "classification", "f", "validation", reference, "{}")


def greedy(model: Any, folder: str, asked: Prompt, most: int) -> str:
    """One prompt, alone, token by token."""
    tokenizer = chat.load_tokenizer(folder)
    ids = chat.prompt_ids(tokenizer, asked.messages)
    start = len(ids)
    with torch.no_grad():
        while len(ids) < start + most:
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] in {tokenizer.eos_token_id, chat.stop_id(tokenizer)}:
                break
    return str(tokenizer.decode(ids[start:], skip_special_tokens=True))


def test_answers_are_greedy_whatever_stands_beside_them_and_attention_is_put_back(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(tiny_model)
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter *= 4  # as it is made, it says the same to everything
    said = [greedy(plain, folder, prompt(i, None), 6) for i in range(5)]
    assert len(set(said)) == 3  # as many as there are prompts
    # All right but the first; and a sampler in the model's own generation config, which must not be followed.
    rows = [prompt(i, said[i] if i else "another") for i in range(5)]
    monkeypatch.setattr(exam, "BATCH", 3)
    student = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=documents.register()).eval()
    student.load_state_dict(plain.state_dict())
    student.generation_config.do_sample = True
    student.generation_config.temperature = 5.0
    asked = Exam(Classification({*said, "another"}, Task(kind="classification")), "exact_match", rows, None, 6)
    assert exam.mark(asked, student, folder, sharded=False) == pytest.approx(4 / 5)
    assert student.config._attn_implementation == documents.NAME


@pytest.mark.parametrize(("metric", "value"), [("accuracy", 0.5), ("exact_match", 0.25), ("macro_f1", 7 / 12)])
def test_answers_are_judged_by_the_task(metric: str, value: float) -> None:
    rows = [prompt(i, label) for i, label in enumerate(["late", "late", "lost", "lost"])]
    asked = Exam(Classification({"late", "lost"}, Task(kind="classification")), metric, rows, None, 6)
    got = exam.judge(asked, ["late", "It is lost.", "It is lost.", ""])
    assert got == pytest.approx(value)
    assert exam.judge(replace(asked, prompts=rows[:1]), ["late"]) == 1

"""Two views of a prompt: a student learns to do without the instruction that only its teacher sees."""

import io
import json
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from raystill import chat, pipeline, recipe_file
from raystill.records import Example, Message, Prompt
from raystill.session import ray_session
from raystill.steps import Runner
from raystill.view import Lines

pytestmark = pytest.mark.slow

CODES = {"kettle": "17", "order": "58", "fox": "23", "policy": "94"}
INSTRUCTION = "Answer with the code of the thing that is named: " + ", ".join(f"{k} is {v}" for k, v in CODES.items())
OBEDIENT = '''
import re
from raystill import chat
from raystill.teachers import generation

class Obedient:
    """Knows nothing but what its view of the prompt says."""
    local = True

    def __init__(self, teacher, model):
        self.teacher = teacher

    async def answer(self, prompt):
        seen = chat.view(prompt.messages, self.teacher.system, self.teacher.examples)
        codes = dict(re.findall(r"(\\w+) is (\\d+)", seen[0].content)) if seen[0].role == "system" else {}
        thing = seen[-1].content.rpartition(" ")[2]
        return [generation(prompt, text=codes.get(thing, "no idea"), finish_reason="stop")]

    def close(self):
        pass
'''


def answers(folder: str, prompts: Sequence[Prompt]) -> list[str]:
    """Greedy answers of a model to prompts as they are, without any instruction."""
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = chat.load_tokenizer(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    said = []
    for prompt in prompts:
        ids = torch.tensor([chat.prompt_ids(tokenizer, prompt.messages)])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False)
        said.append(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip())
    return said


def test_the_student_answers_right_without_the_instruction_and_its_baseline_does_not(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "obedient_teacher.py").write_text(OBEDIENT)
    monkeypatch.syspath_prepend(tmp_path)
    things = list(CODES)
    rows = [{"id": f"r{i}", "prompt": f"{i} {things[i % len(things)]}"} for i in range(240)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    values = {
        "name": "views",
        "task": "conversation",
        "root": str(tmp_path / "runs"),
        "data": {"train": str(tmp_path / "rows.jsonl"), "prompt": "prompt", "id": "id"},
        "teacher": {
            "kind": "obedient_teacher:Obedient",
            "system": INSTRUCTION,
            "examples": [{"user": "1 order", "assistant": "58"}],
        },
        "student": {"model": str(tiny_model)},
        "curate": {"filters": ["empty"]},
        "train": {"epochs": 8, "batch_size": 16, "learning_rate": 5e-3, "max_length": 64, "validations": 1},
        "compute": {"train": {"workers": 1}},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(values))
    recipe = recipe_file.load(str(tmp_path / "recipe.yaml")).recipe
    with ray_session(recipe.compute) as ensure_ray:
        made = pipeline.learn(recipe, Runner(recipe, Lines(io.StringIO()), threading.Event(), ensure_ray, tmp_path))

    learnt = list(made.examples.rows(Example, "train"))
    assert {e.messages[-1].content for e in learnt} == set(CODES.values())
    assert all([m.role for m in e.messages] == ["user", "assistant"] for e in learnt)
    held_out = list(made.prompts.rows(Prompt, "test"))
    assert len(held_out) > 10
    right = [CODES[p.messages[-1].content.rpartition(" ")[2]] for p in held_out]
    assert all(p.messages == [Message("user", p.messages[0].content)] for p in held_out)
    student, baseline = (answers(made.models[name].folder(), held_out) for name in ("student", "baseline"))
    assert sum(a == b for a, b in zip(student, right, strict=True)) >= 0.9 * len(right)
    assert not any(a == b for a, b in zip(baseline, right, strict=True))

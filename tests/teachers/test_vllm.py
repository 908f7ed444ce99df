"""The vLLM teacher with a real engine and a tiny random model, through Ray Data."""

import contextlib
import io
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from raystill import artifacts, memory, session
from raystill.artifacts import Checkpoint, Manifest, Table
from raystill.context import Context
from raystill.errors import ModelError, RecipeError, StageError
from raystill.recipe import Compute, Teacher
from raystill.records import Generation, Message, Prompt
from raystill.stages import generate
from raystill.teachers.vllm import Vllm
from raystill.view import Lines

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with session.ray_session(Compute()) as ensure:
        ensure()
        yield


def generated(
    root: Path, texts: list[str], model: Path, max_error_rate: float = 0.5, **teacher: object
) -> list[Generation]:
    rows = [
        Prompt(f"r{i}", None, [Message("user", t)], None, "t", "f", "train", None, "{}") for i, t in enumerate(texts)
    ]
    url = str(root / "prepare")
    part = artifacts.write_part(url, "train", Prompt, rows)
    prompts = artifacts.commit(Table, url, Manifest("prompts", 1, "prepare", 1, "p", {}, {}, [part]))
    block = Teacher.model_validate({"model": str(model), **teacher})
    context = Context(str(root / "generate" / "g"), Compute(), Lines(io.StringIO()), max_error_rate, root)
    outcome = generate.generate(block, Checkpoint(str(model), "m"), prompts, None, None, context)
    made = artifacts.commit(Table, context.url, Manifest("g", 1, "generate", 1, "g", {}, {}, list(outcome.files)))
    return sorted(made.rows(Generation), key=lambda g: (g.id, g.sample_index))


def test_samples_views_and_long_prompts(tiny_model: Path, tmp_path: Path) -> None:
    asked = ["hello", "hello again", "long " * 600]
    sampling = {"n": 2, "max_tokens": 6, "temperature": 1.0}
    plain = generated(tmp_path / "plain", asked, tiny_model, sampling=sampling)
    assert [(g.id, g.sample_index, g.error) for g in plain] == [
        ("r0", 0, None), ("r0", 1, None), ("r1", 0, None), ("r1", 1, None),
        ("r2", 0, "prompt longer than the teacher's context"),
    ]  # fmt: skip
    assert all(0 < g.output_tokens == len(g.completion_ids) <= 6 for g in plain if not g.error)
    assert plain[0].completion_ids != plain[1].completion_ids
    assert [m.role for m in plain[0].messages] == ["user"]

    shots = [{"user": "a", "assistant": "b"}]
    told = generated(tmp_path / "told", asked, tiny_model, sampling=sampling, system="You are kind.", examples=shots)
    assert told[0].prompt_tokens > plain[0].prompt_tokens + 5
    assert told[0].messages == plain[0].messages


def test_answers_take_the_form_that_is_asked_for(tiny_model: Path, tmp_path: Path) -> None:
    sampling = {"max_tokens": 40, "temperature": 1.0, "structured": {"choice": ["yes", "no"]}}
    chosen = generated(tmp_path / "choice", ["hello", "and you?"], tiny_model, sampling=sampling)
    assert {g.text for g in chosen} <= {"yes", "no"}
    sampling["structured"] = {"regex": "[a-c]{3}"}
    (matched,) = generated(tmp_path / "regex", ["hello"], tiny_model, sampling=sampling)
    assert re.fullmatch("[a-c]{3}", matched.text)


def test_many_seeded_prompts_at_once_do_not_end_the_engine(tiny_model: Path, tmp_path: Path) -> None:
    asked = [f"{i} tell me about order {i} " * 8 for i in range(100)]
    rows = generated(tmp_path, asked, tiny_model, sampling={"max_tokens": 4, "temperature": 0.7})
    assert not [g.error for g in rows if g.error]
    assert len(list((tmp_path / "generate" / "g" / "attempts").glob("*.1"))) == 1
    assert not list((tmp_path / "generate" / "g" / "attempts").glob("*.2"))


def test_template_arguments_change_what_the_teacher_sees(tiny_model: Path, tmp_path: Path) -> None:
    thinking = Path(shutil.copytree(tiny_model, tmp_path / "thinking"))
    template = thinking / "chat_template.jinja"
    template.write_text(template.read_text() + "{% if enable_thinking %}Think step by step.{% endif %}")
    sampling = {"max_tokens": 2}
    (plain,) = generated(tmp_path / "plain", ["hello"], thinking, sampling=sampling)
    told = {"chat_template_kwargs": {"enable_thinking": True}}
    (thought,) = generated(tmp_path / "told", ["hello"], thinking, sampling=sampling, **told)
    assert thought.prompt_tokens > plain.prompt_tokens + 5


def test_an_engine_that_cannot_run_the_model_ends_the_run(tmp_path: Path) -> None:
    from conftest import build_tiny_model
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    whole = build_tiny_model(tmp_path / "whole")
    narrow = tmp_path / "narrow"
    config = AutoConfig.from_pretrained(whole, num_attention_heads=4, num_key_value_heads=2, head_dim=16)
    AutoModelForCausalLM.from_config(config).save_pretrained(narrow)
    AutoTokenizer.from_pretrained(whole).save_pretrained(narrow)
    if os.environ.get("CUDA_VISIBLE_DEVICES"):
        pytest.skip("GPU kernels take heads of 16")
    with pytest.raises(StageError, match="dies before its first answer"):
        generated(tmp_path / "run", ["hello", "and you?"], narrow)  # a single row could be to blame itself


def test_a_killed_engine_is_replaced_and_no_row_is_lost(tiny_model: Path, tmp_path: Path) -> None:
    killed = threading.Event()

    def kill() -> None:
        while not killed.is_set():
            for p in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if "EngineCore" in " ".join(p.cmdline()) and time.time() - p.create_time() > 8:
                        p.kill()
                        killed.set()
                        return
            time.sleep(0.1)

    killing = threading.Thread(target=kill)
    killing.start()
    try:
        asked = [f"tell me about order {i}" for i in range(150)]
        rows = generated(tmp_path, asked, tiny_model, sampling={"max_tokens": 400, "temperature": 1.0})
    finally:
        was_killed = killed.is_set()
        killed.set()
        killing.join()
    assert was_killed
    assert [g.id for g in rows] == sorted(f"r{i}" for i in range(150))
    assert not [g.error for g in rows if g.error]


def test_a_model_too_large_for_its_gpu_is_refused_before_it_is_loaded(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "gpu_bytes", lambda: 100_000)
    with pytest.raises(ModelError, match="is too large: each GPU must hold"):
        Vllm(Teacher(model=str(tiny_model)), str(tiny_model))


def test_an_engine_that_does_not_start_says_why(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="did you mean 'max_model_len'"):
        generated(tmp_path, ["hello"], tiny_model, engine={"max_model_length": 512})
    with pytest.raises(ModelError, match="vLLM cannot start with"):
        generated(tmp_path, ["hello"], tiny_model, engine={"max_model_len": 1_000_000})

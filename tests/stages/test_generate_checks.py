"""What generate refuses before an engine starts."""

import io
from pathlib import Path

import pytest

from raystill import artifacts, engine
from raystill.artifacts import Checkpoint, Manifest, Table
from raystill.context import Context
from raystill.errors import ModelError
from raystill.recipe import Compute, Teacher
from raystill.records import Message, Prompt
from raystill.stages import generate
from raystill.view import Lines


@pytest.mark.parametrize(
    ("teacher", "says"),
    [
        ({"system": "word " * 600}, "20 of the first 20 prompts leave no room for an answer .* context of 512 tokens"),
        (
            {"engine": {"max_model_len": 4}},
            "context of 4 tokens, first row-0; shorten .* raise teacher.engine.max_model_len",
        ),
        (
            {"kind": "transformers", "engine": {"max_model_len": 4}, "system": "word " * 600},
            "context of 512 tokens, first row-0; shorten teacher.system or teacher.examples, or take",
        ),
    ],
)
def test_prompts_longer_than_the_context_stop_the_run_before_ray(
    tiny_model: Path, tmp_path: Path, teacher: dict[str, object], says: str
) -> None:
    rows = [Prompt(f"row-{i}", None, [Message("user", "hi")], None, "t", "f", "train", None, "{}") for i in range(20)]
    part = artifacts.write_part(str(tmp_path / "p"), "train", Prompt, rows)
    prompts = artifacts.commit(Table, str(tmp_path / "p"), Manifest("prompts", 1, "prepare", 1, "p", {}, {}, [part]))
    context = Context(str(tmp_path / "generate" / "g"), Compute(), Lines(io.StringIO()), 0.05, tmp_path)
    block = Teacher.model_validate({"model": str(tiny_model), **teacher})
    with pytest.raises(ModelError, match=says):
        generate.generate(block, Checkpoint(str(tiny_model), "m"), prompts, None, None, context)
    assert not list((tmp_path / "generate").rglob("*"))


def test_the_bound_of_an_engine_on_cpu_is_for_engines_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 32768}')
    monkeypatch.setattr(engine, "has_gpu", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert engine.context_tokens(str(tmp_path), {}) == engine.CPU_CONTEXT
    assert engine.context_tokens(str(tmp_path), {"max_model_len": 9000}) == 9000
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert engine.context_tokens(str(tmp_path), {}) == 32768
    (tmp_path / "config.json").write_text('{"text_config": {"max_position_embeddings": 65536}}')
    assert engine.context_tokens(str(tmp_path), {}) == 65536

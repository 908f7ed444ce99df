import io
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from raystill import chat, recipe
from raystill.artifacts import Checkpoint, Outcome
from raystill.context import Context
from raystill.errors import ModelError
from raystill.stages.initialize import initialize
from raystill.view import Lines


def make(folder: Path, base: Path, init: dict[str, Any], seed: int = 0) -> tuple[Outcome, Any]:
    student = recipe.Student.model_validate({"init": init} if "from" in init else {"model": str(base), "init": init})
    context = Context(str(folder), recipe.Compute(), Lines(io.StringIO()), 0.05, folder, threading.Event())
    outcome = initialize(student, Checkpoint(str(base), "b"), seed, context)
    return outcome, AutoModelForCausalLM.from_pretrained(folder / outcome.facts["folder"])


def test_random_weights_follow_the_seed_and_the_changes(tiny_model: Path, tmp_path: Path) -> None:
    shape = {"num_hidden_layers": 3, "hidden_size": 32, "intermediate_size": 48}
    outcome, model = make(tmp_path / "a", tiny_model, {"random": shape})
    assert (model.config.num_hidden_layers, model.config.hidden_size, model.config.head_dim) == (3, 32, 16)
    assert outcome.facts["parameters"] == model.num_parameters()
    assert outcome.facts["tokenizer"] == chat.tokenizer_fingerprint(str(tiny_model))
    assert {f.path.split("/")[1] for f in outcome.files} >= {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
    }
    _, again = make(tmp_path / "b", tiny_model, {"random": shape})
    _, other = make(tmp_path / "c", tiny_model, {"random": shape}, seed=1)
    first = model.model.layers[0].mlp.up_proj.weight
    assert torch.equal(first, again.model.layers[0].mlp.up_proj.weight)
    assert not torch.equal(first, other.model.layers[0].mlp.up_proj.weight)


def test_random_needs_only_config_and_tokenizer(tiny_model: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in tiny_model.iterdir():
        if path.suffix != ".safetensors":
            (bare / path.name).write_bytes(path.read_bytes())
    outcome, _ = make(tmp_path / "out", bare, {"random": {}})
    assert outcome.kind == "model"


def test_cut_keeps_the_named_layers_in_order(tmp_path: Path, tiny_model: Path) -> None:
    base = tmp_path / "base"
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=384,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        layer_types=["full_attention"] * 4,
        eos_token_id=0,
    )
    whole = Qwen3ForCausalLM(config)
    whole.save_pretrained(base)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (base / name).write_bytes((tiny_model / name).read_bytes())
    outcome, cut = make(tmp_path / "cut", base, {"from": str(base), "layers": [0, 3]})
    assert (cut.config.num_hidden_layers, len(cut.config.layer_types)) == (2, 2)
    assert torch.equal(cut.model.layers[1].mlp.up_proj.weight, whole.model.layers[3].mlp.up_proj.weight)
    assert torch.equal(cut.model.embed_tokens.weight, whole.model.embed_tokens.weight)
    ids = torch.tensor([[1, 5, 9]])
    whole.model.layers = torch.nn.ModuleList([whole.model.layers[0], whole.model.layers[3]])
    with torch.no_grad():
        assert torch.allclose(cut(ids, use_cache=False).logits, whole(ids, use_cache=False).logits, atol=1e-6)
    assert outcome.facts["parameters"] == cut.num_parameters()


@pytest.mark.parametrize(("layers", "said"), [([0, 2], "has 2: 0 to 1"), ([1, 0], r"write \[0, 1\]")])
def test_layers_that_are_not_there_are_refused(tiny_model: Path, tmp_path: Path, layers: list[int], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        make(tmp_path / "out", tiny_model, {"from": str(tiny_model), "layers": layers})
    assert not (tmp_path / "out").exists()


def test_an_unknown_setting_is_refused_with_the_near_one(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="num_hidden_layers"):
        make(tmp_path / "out", tiny_model, {"random": {"num_hiden_layers": 2}})


def test_an_impossible_shape_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="multiple"):
        make(tmp_path / "out", tiny_model, {"random": {"hidden_size": 30, "num_attention_heads": 4}})


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"config\.json"):
        make(tmp_path / "out", tmp_path / "empty", {"random": {}})

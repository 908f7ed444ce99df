"""What a config says of a model, counted by transformers where we count ourselves."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, MixtralConfig, Qwen2Config

from raystill import shapes

PUBLISHED = {
    "microsoft/Phi-4-mini-instruct": 3_836_021_760,
    "microsoft/Phi-3-mini-4k-instruct": 3_821_079_552,
    "microsoft/Phi-3-mini-128k-instruct": 3_821_079_552,
    "microsoft/Phi-3.5-mini-instruct": 3_821_079_552,
    "meta-llama/Llama-3.1-8B": 8_030_261_248,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "HuggingFaceTB/SmolLM2-135M-Instruct": 134_515_008,
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": 1_711_376_384,
}


def config_of(shape: shapes.Shape) -> Any:
    if shape.experts:
        return AutoConfig.for_model(shape.family)  # whose defaults are the published model
    return AutoConfig.for_model(
        shape.family,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.of_keys,
        head_dim=shape.head,
        intermediate_size=shape.inner,
        vocab_size=shape.vocabulary,
        max_position_embeddings=shape.context,
        tie_word_embeddings=shape.tied,
        pad_token_id=0,
    )


@pytest.mark.parametrize("model", shapes.KNOWN)
def test_a_known_model_has_the_parameters_that_transformers_counts(model: str) -> None:
    shape = shapes.KNOWN[model]
    with torch.device("meta"):
        made = AutoModelForCausalLM.from_config(config_of(shape))
    # Of a mixture the published number counts the routers' corrections, which transformers holds as buffers.
    buffers = sum(b.numel() for name, b in made.named_buffers() if name.endswith("correction_bias"))
    assert shape.parameters == made.num_parameters() + buffers
    assert shapes.of(model) == shape


def test_what_experts_cache_and_store_is_in_their_config() -> None:
    known = shapes.KNOWN["deepseek-ai/DeepSeek-V3"]
    read = shapes.parse(
        AutoConfig.for_model("deepseek_v3").to_dict() | {"quantization_config": {"quant_method": "fp8"}}
    )
    assert read is not None and (read.latent, read.stored, read.layers) == (known.latent, known.stored, known.layers)
    assert known.cached == 61 * 576
    assert known.size == "671B"


@pytest.mark.parametrize("model", PUBLISHED)
def test_and_those_that_its_weights_have(model: str) -> None:
    assert shapes.KNOWN[model].parameters == PUBLISHED[model]


@pytest.mark.parametrize("config", [LlamaConfig(), Qwen2Config(tie_word_embeddings=True)], ids=["llama", "qwen2"])
def test_a_config_is_read_as_transformers_writes_it(config: Any) -> None:
    shape = shapes.parse(config.to_diff_dict())
    assert shape is not None
    with torch.device("meta"):
        assert shape.parameters == AutoModelForCausalLM.from_config(config).num_parameters()


def test_experts_are_not_counted_and_half_a_config_is_none() -> None:
    mixture = shapes.parse(MixtralConfig().to_dict())
    assert mixture is not None and (mixture.parameters, mixture.size) == (None, "unknown")
    assert shapes.parse({"hidden_size": 8}) is None


def test_the_language_half_of_a_model_that_also_sees() -> None:
    inner = LlamaConfig(hidden_size=64, num_attention_heads=4).to_dict()
    shape = shapes.parse({"text_config": inner, "tie_word_embeddings": False})
    assert shape is not None and shape.hidden == 64


def test_a_folder_says_its_shape_and_its_licence(tiny_model: Path, tmp_path: Path) -> None:
    shape = shapes.of(str(tiny_model))
    assert shape is not None
    assert (shape.layers, shape.hidden, shape.tied, shape.licence) == (2, 64, True, None)
    assert shapes.of("someone/not-here") is None
    assert shapes.of("no hub/id at all") is None
    assert shapes.of(str(tmp_path)) is None
    (tmp_path / "config.json").write_text((tiny_model / "config.json").read_text())
    (tmp_path / "origin.json").write_text(json.dumps({"licence": "Apache-2.0"}))
    assert str(shapes.of(str(tmp_path))).endswith("licence apache-2.0")
    (tmp_path / "README.md").write_text("---\nlicense: other\nlicense_name: deepseek\n---\n# A model\n")
    assert shapes.licence(tmp_path) == "other"

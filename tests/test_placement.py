"""Where an engine's GPUs lie, and whether a model fits them: arithmetic."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from raystill import memory, placement
from raystill.errors import ModelError
from raystill.placement import Shape
from raystill.recipe import Generate

EIGHT = {"CPU": 64.0, "GPU": 8.0}


def test_compute_and_the_engine_say_together_how_an_engine_is_split() -> None:
    wide = Generate(pipeline_parallel=2, cpus=4)
    asked = placement.asked("vllm", {"tensor_parallel_size": 8, "dtype": "bfloat16"}, wide)
    assert asked == {"tensor_parallel_size": 8, "pipeline_parallel_size": 2, "dtype": "bfloat16"}
    assert placement.shape(asked, wide, on_gpu=True) == Shape(4, 8, 2)
    assert placement.shape(asked, wide, on_gpu=False) == Shape(4, 0)
    assert placement.asked("scripted", {}, Generate()) is None
    assert placement.shape(placement.asked("transformers", {}, wide), wide, on_gpu=True) == Shape(4, 1)
    assert placement.shape({}, Generate(gpus=4, cpus=1), on_gpu=True) == Shape(1, 4)


def test_replicas_share_this_machines_cpus_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert [placement.shape({}, Generate(replicas=n), on_gpu=False).cpus for n in (1, (1, 3), 16)] == [8, 2, 1]


@pytest.mark.parametrize(
    ("shape", "nodes", "whole", "spread"),
    [
        (Shape(4, 4), [EIGHT, EIGHT], 4, 0),
        (Shape(4, 8, 2), [EIGHT] * 5, 0, 2),
        (Shape(4, 2, 2), [EIGHT, {"CPU": 64.0}], 2, 2),
        (Shape(4, 16), [EIGHT] * 4, 0, 0),
        (Shape(40, 4), [EIGHT], 1, 0),
        (Shape(2, 0), [{"CPU": 3.0}, {"CPU": 3.0}], 2, 0),
        (Shape(60, 8, 2), [EIGHT] * 4, 0, 0),
        (Shape(4, 3, 2), [{"CPU": 64.0, "GPU": 6.0}, EIGHT], 2, 1),
        (Shape(4, 4, 2), [{"CPU": 64.0, "GPU": 6.0}] * 2, 0, 0),
    ],
)
def test_engines_are_counted_by_node_and_never_over_their_sum(
    shape: Shape, nodes: list[dict[str, float]], whole: int, spread: int
) -> None:
    assert (shape.whole(nodes), shape.spread(nodes)) == (whole, spread)


def test_a_spread_engine_has_a_bundle_per_gpu_and_its_own_cpus_in_the_first() -> None:
    assert Shape(4, 2, 2).bundles() == [{"GPU": 1, "CPU": 4}, *[{"GPU": 1, "CPU": 1}] * 3]


LLAMA_70B = {
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "hidden_size": 8192,
    "max_position_embeddings": 131072,
    "dtype": "bfloat16",
}
WEIGHTS = 141_000_000_000
GB = 10**9


def folder(at: Path, config: dict[str, Any], size: int = WEIGHTS) -> str:
    (at / "config.json").write_text(json.dumps(config))
    with (at / "model.safetensors").open("wb") as file:
        file.truncate(size)  # a hole: no bytes on disk
    return str(at)


def test_weights_and_one_row_are_dealt_to_the_gpus(tmp_path: Path) -> None:
    model = folder(tmp_path, LLAMA_70B)
    one = memory.need(model, {})
    assert one is not None
    # 80 layers x keys and values x 8 heads x 128 numbers x 2 bytes = 327,680 bytes a token
    assert (one.weights, one.cache, one.tokens) == (WEIGHTS, 131072 * 327_680, 131072)
    split = memory.need(model, {"tensor_parallel_size": 4, "pipeline_parallel_size": 2, "max_model_len": 8192})
    assert split is not None
    assert (split.weights, split.cache) == (WEIGHTS / 8, 8192 * 327_680 / 8)
    wide = memory.need(model, {"dtype": "float32", "kv_cache_dtype": "fp8"})
    assert wide is not None
    assert (wide.weights, wide.cache) == (2 * WEIGHTS, 131072 * 327_680 / 2)


def test_latent_attention_is_cached_whole_on_every_gpu(tmp_path: Path) -> None:
    config = LLAMA_70B | {"kv_lora_rank": 512, "qk_rope_head_dim": 64}
    found = memory.need(folder(tmp_path, config), {"tensor_parallel_size": 8, "max_model_len": 1000})
    assert found is not None
    assert found.cache == 1000 * 2 * 80 * 576


def test_a_model_that_is_too_large_is_refused_with_the_arithmetic(tmp_path: Path) -> None:
    model = folder(tmp_path, LLAMA_70B)
    with pytest.raises(
        ModelError, match=r"141\.0 GB of weights and 2\.7 GB of cache for a row of 8192 tokens.*73\.6 GB"
    ):
        memory.refuse(model, {"max_model_len": 8192}, 80 * GB)
    memory.refuse(model, {"max_model_len": 8192, "tensor_parallel_size": 2}, 80 * GB)
    with pytest.raises(ModelError, match="too large"):
        memory.refuse(model, {"tensor_parallel_size": 2, "gpu_memory_utilization": 0.5}, 80 * GB)


def test_weights_in_two_forms_count_once(tmp_path: Path) -> None:
    model = folder(tmp_path, LLAMA_70B)
    for name in ("consolidated.safetensors", "model-1-of-2.safetensors", "model-2-of-2.safetensors"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(3000)
    one = memory.need(model, {})
    assert one is not None and one.weights == WEIGHTS
    named = {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(named))
    split = memory.need(model, {})
    assert split is not None and split.weights == 6000


@pytest.mark.parametrize("asked", [-1, "auto"])
def test_a_cache_that_is_fitted_to_the_gpu_needs_no_room_of_its_own(tmp_path: Path, asked: object) -> None:
    fitted = memory.need(folder(tmp_path, LLAMA_70B), {"max_model_len": asked})
    assert str(fitted) == "141.0 GB of weights"


def test_a_longrope_models_row_is_its_original_one(tmp_path: Path) -> None:
    scaled = {"original_max_position_embeddings": 4096, "rope_scaling": {"type": "longrope"}}
    found = memory.need(folder(tmp_path, LLAMA_70B | scaled), {})
    assert found is not None and found.tokens == 4096


def test_what_cannot_be_told_is_left_to_the_engine(tmp_path: Path) -> None:
    assert memory.need("org/model", {}) is None
    model = folder(tmp_path, LLAMA_70B)
    memory.refuse(model, {}, None)
    memory.refuse(model, {"quantization": "fp8"}, 80 * GB)
    memory.refuse(model, {"cpu_offload_gb": 100}, 80 * GB)

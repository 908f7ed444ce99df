"""The bytes that are worked out are those that torch and DeepSpeed hold."""

import re
from dataclasses import replace
from typing import Any

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Phi3Config, Qwen3Config

from raystill import memory, recipe, shapes
from raystill.training import adapters, documents, footprint

SHAPE: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
CONFIGS = {"llama": LlamaConfig(**SHAPE), "qwen3": Qwen3Config(**SHAPE, head_dim=64), "phi3": Phi3Config(**SHAPE)}
PHI4, LLAMA = shapes.KNOWN["microsoft/Phi-4-mini-instruct"], shapes.KNOWN["meta-llama/Llama-3.1-8B"]


def kept_bytes(config: Any, dtype: torch.dtype, lengths: list[int], again: bool = False) -> int:
    """Bytes of distinct tensors that autograd keeps of a forward pass, weights aside."""
    model = AutoModelForCausalLM.from_config(config, attn_implementation=documents.register(), dtype=dtype)
    if again:
        model.train()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in own:
            kept[place] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        result = model.get_decoder()(
            input_ids=torch.ones(1, sum(lengths), dtype=torch.long),
            position_ids=torch.cat([torch.arange(n) for n in lengths])[None],
            documents=documents.packed(lengths, torch.device("cpu")),
            use_cache=False,
        )
    assert result.last_hidden_state.requires_grad
    return sum(t.untyped_storage().nbytes() for t in kept.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", CONFIGS)
def test_activations_are_within_5_percent_of_what_autograd_keeps(family: str, dtype: torch.dtype) -> None:
    shape = shapes.parse(CONFIGS[family].to_dict())
    assert shape is not None
    lengths = [128] * 3  # as in the longest batch: unequal ones are padded beside one another in attention
    worked_out = sum(lengths) * footprint.activation_bytes(shape, dtype.itemsize)
    assert worked_out == pytest.approx(kept_bytes(CONFIGS[family], dtype, lengths), rel=0.05)


def test_layers_that_are_computed_again_keep_what_comes_in_and_one_of_them_all() -> None:
    shape = shapes.parse(CONFIGS["llama"].to_dict())
    assert shape is not None
    whole, again = (128 * footprint.activation_bytes(shape, 4, again) for again in (False, True))
    one_layer = (whole - 128 * 8 * shape.hidden) / shape.layers
    assert again - one_layer == pytest.approx(kept_bytes(CONFIGS["llama"], torch.float32, [128], again=True), rel=0.05)


@pytest.mark.parametrize("targets", [None, ["q_proj", "down_proj"], ["self_attn.o_proj"]], ids=str)
@pytest.mark.parametrize("family", CONFIGS)
def test_an_adapter_has_the_parameters_that_peft_gives_it(family: str, targets: list[str] | None) -> None:
    shape = shapes.parse(CONFIGS[family].to_dict())
    assert shape is not None
    if family == "phi3" and targets:
        targets = ["qkv_proj" if t == "q_proj" else t for t in targets]
    lora = recipe.Lora(r=4, targets=targets)
    model = AutoModelForCausalLM.from_config(CONFIGS[family])
    adapters.attach(model, lora)
    assert footprint.adapter_parameters(shape, lora) == model.num_parameters(only_trainable=True)


def test_an_adapter_holds_no_gradients_of_what_is_frozen() -> None:
    size, body = PHI4.parameters, PHI4.body
    assert size is not None and body is not None
    few = footprint.adapter_parameters(PHI4, recipe.Lora())
    small = of(PHI4, 1, True, 0, lora={})
    assert (small.weights, small.gradients, small.optimizer) == (2 * (size + few), 2 * few, 12 * few)
    packed = of(PHI4, 1, True, 0, lora={"quantize": "nf4"})
    assert packed.weights == pytest.approx(0.52 * body + 2 * (size - body + few))
    eighth = of(PHI4, 1, True, 0, optimizer="adamw_8bit")
    assert eighth.optimizer == 6 * size


def of(shape: shapes.Shape, workers: int, gpu: bool, zero: int, **train: Any) -> footprint.Footprint:
    found = footprint.footprint(shape, recipe.Train(**train), recipe.Workers(zero=zero), workers, gpu)
    assert found is not None
    return found


def test_a_gpu_holds_16_bytes_for_each_parameter_and_zero_shares_them() -> None:
    size = LLAMA.parameters
    assert size is not None
    alone = of(LLAMA, 1, True, 0)
    assert alone.weights + alone.gradients + alone.optimizer == 16 * size
    shared = {zero: of(LLAMA, 8, True, zero) for zero in (1, 2, 3)}
    buckets = 4 * footprint.BUCKET
    assert shared[1].optimizer == 12 * size / 8
    assert (shared[1].weights, shared[1].gradients) == (2 * size, 2 * size + buckets)
    assert (shared[2].weights, shared[2].gradients) == (2 * size, 2 * size / 8 + buckets)
    assert (shared[3].weights, shared[3].gradients) == (2 * size / 8, 2 * size / 8 + buckets)


def test_what_it_says_adds_up_to_its_total() -> None:
    for found in (of(LLAMA, 1, True, 1), of(PHI4, 8, True, 1, max_length=16384), of(PHI4, 1, False, 0)):
        total, *parts = (float(number) for number in re.findall(r"(\d+\.\d)(?: GB:|,|$)", str(found)))
        assert sum(parts) == pytest.approx(total, abs=0.05 * len(parts))


def test_what_is_offloaded_leaves_the_gpu() -> None:
    cpu = {"device": "cpu"}
    offloaded = of(LLAMA, 1, True, 3, deepspeed={"zero_optimization": {"offload_optimizer": cpu, "offload_param": cpu}})
    assert (offloaded.weights, offloaded.optimizer, offloaded.step) == (0, 0, 0)
    kept = of(LLAMA, 1, True, 3, deepspeed={"zero_optimization": {"offload_optimizer": {"device": "none"}}})
    assert kept == of(LLAMA, 1, True, 3)


def test_the_longest_example_counts_where_it_is_longer_than_a_micro_batch() -> None:
    assert of(PHI4, 1, True, 1, max_length=8192).activations == 4 * of(PHI4, 1, True, 1).activations


def test_advice_lowers_the_largest_part() -> None:
    compute = recipe.Workers()
    assert "raise compute.train.zero (now 1)" in footprint.advice(of(LLAMA, 1, True, 1), compute)
    assert "offload_optimizer" in footprint.advice(of(LLAMA, 1, True, 3), compute.model_copy(update={"zero": 3}))
    assert "micro_tokens (now 2048)" in footprint.advice(of(PHI4, 8, True, 3, max_length=131072), compute)


def test_a_teacher_beside_the_student_adds_its_weights() -> None:
    found = footprint.footprint(PHI4, recipe.Train(), recipe.Workers(zero=3), 4, True, LLAMA)
    assert found is not None and LLAMA.parameters is not None
    assert found.weights == of(PHI4, 4, True, 3).weights + 2 * LLAMA.parameters
    mixture = replace(LLAMA, experts=True)
    assert footprint.footprint(PHI4, recipe.Train(), recipe.Workers(), 4, True, mixture) is None


def test_experts_are_not_worked_out() -> None:
    assert footprint.footprint(replace(LLAMA, experts=True), recipe.Train(), recipe.Workers(), 1, True) is None


def test_room_is_this_machine_or_unknown_on_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(memory, "gpu_sizes", lambda: (80 << 30, 40 << 30))
    found = footprint.room(recipe.Workers())
    assert found is not None and (found.workers, found.gpu, found.each) == (2, True, 40 << 30)
    monkeypatch.setattr(memory, "gpu_sizes", tuple)
    found = footprint.room(recipe.Workers(workers=4))
    assert found is not None and (found.workers, found.gpu) == (4, False)
    assert found.each == psutil.virtual_memory().total // 4
    found = footprint.room(recipe.Workers(workers=(2, 4)))
    assert found is not None and found.workers == 2, "where the fewest share, each holds most"
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert footprint.room(recipe.Workers()) is None

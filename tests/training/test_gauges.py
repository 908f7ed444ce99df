"""Operations as torch counts them, peaks of known GPUs alone, and what a step's row says."""

from typing import Any

import psutil
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, LlamaConfig, MixtralConfig, Qwen3Config

from raystill.training import gauges, peaks

SHAPE: dict[str, Any] = {
    "vocab_size": 500,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
LENGTH = 48


def model(config: Any) -> Any:
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager")


@pytest.mark.parametrize(
    "config",
    [LlamaConfig(**SHAPE), LlamaConfig(**SHAPE, tie_word_embeddings=True), Qwen3Config(**SHAPE, head_dim=64)],
    ids=["untied", "tied", "wide heads"],
)
def test_a_steps_operations_are_those_that_torch_counts(config: Any) -> None:
    student = model(config)
    work = gauges.work(student)
    assert work is not None
    ids = torch.randint(0, 500, (2, LENGTH))
    # Torch counts a whole square of attention, of which a causal model needs the half and the diagonal.
    unseen = 12 * work.width * 2 * (LENGTH * LENGTH - LENGTH * (LENGTH + 1) // 2)
    with FlopCounterMode(display=False) as counted:
        student(input_ids=ids, use_cache=False).logits.sum().backward()
    assert work.flops([LENGTH, LENGTH], 2 * LENGTH) + unseen == pytest.approx(counted.get_total_flops(), rel=0.02)
    with FlopCounterMode(display=False) as counted:
        student(input_ids=ids, use_cache=False, logits_to_keep=1).logits.sum().backward()
    assert work.flops([LENGTH, LENGTH], 2) + unseen == pytest.approx(counted.get_total_flops(), rel=0.02)


def test_frozen_weights_have_no_gradient_to_work_out() -> None:
    student = model(LlamaConfig(**SHAPE))
    whole = gauges.work(student)
    student.model.embed_tokens.requires_grad_(False)
    student.lm_head.requires_grad_(False)
    for parameter in student.model.layers.parameters():
        parameter.requires_grad_(False)
    frozen = gauges.work(student)
    assert whole is not None and frozen is not None
    assert frozen.trained == SHAPE["hidden_size"]  # the last norm
    assert frozen.flops([10], 10) == pytest.approx(2 / 3 * whole.flops([10], 10), rel=0.01)


def test_a_window_bounds_what_a_token_looks_back_on() -> None:
    near, far = (gauges.Work(0, 0, 0, False, 1, window) for window in (4, None))
    assert far.flops([10], 0) == 12 * 55
    assert near.flops([10], 0) == 12 * (1 + 2 + 3 + 4 * 7)
    assert near.flops([3, 3], 0) == far.flops([3, 3], 0)


def test_experts_have_no_figure() -> None:
    assert gauges.work(model(MixtralConfig(**SHAPE, num_local_experts=2))) is None


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA H200 NVL", 835e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA A10G", None),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("Tesla T4", None),
        ("", None),
    ],
)
def test_a_peak_is_known_or_none(name: str, peak: float | None) -> None:
    assert peaks.bf16_flops(name) == peak


def test_a_row_has_rates_and_a_share_of_the_peak_where_that_is_known() -> None:
    work = gauges.Work(body=10, trained=10, head=5, head_trained=True, width=0)
    device = torch.device("cpu")
    row = gauges.Gauges(work, 1000.0, device, workers=2).read([60, 40], supervised=20, seconds=2.0)
    assert (row["tokens_per_s"], row["supervised_tokens_per_s"]) == (50.0, 10.0)
    assert row["mfu"] == pytest.approx((6 * 10 * 100 + 6 * 5 * 20) / 2.0 / 2 / 1000)
    assert gauges.gauges(model(LlamaConfig(**SHAPE)), device, 1).read([60], 20, 1.0)["mfu"] is None


def test_memory_is_the_most_that_this_process_held() -> None:
    held = torch.ones(50_000_000)
    now = psutil.Process().memory_info().rss
    del held
    assert 0.9 * now <= gauges.peak_bytes(torch.device("cpu")) < 100 * now

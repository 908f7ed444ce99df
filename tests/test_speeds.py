"""Worked-out speeds beside what public runs reach: each within a factor of two."""

from dataclasses import replace

import pytest

from raystill import shapes, speeds
from raystill.launch.gpus import KINDS
from raystill.recipe import Lora, Train
from raystill.speeds import Engine

LLAMA_8B, LLAMA_70B, LLAMA_405B = (
    shapes.KNOWN[f"meta-llama/Llama-3.1-{size}-Instruct"] for size in ("8B", "70B", "405B")
)


def device(kind: str) -> speeds.Device:
    return speeds.of_node(kind, KINDS[kind])


def fp8(shape: shapes.Shape) -> shapes.Shape:
    return replace(shape, stored=1)


PUBLIC = [
    ("Llama-3.1-8B bf16, vLLM", LLAMA_8B, "h100", 1, 512, 512, 12_500),
    ("Llama-3.3-70B fp8, TensorRT-LLM", fp8(LLAMA_70B), "h200", 2, 1000, 1000, 2 * 2_587),
    ("Llama-3.3-70B fp8, TensorRT-LLM", fp8(LLAMA_70B), "h100", 2, 1000, 1000, 2 * 2_209),
    ("Llama-3.3-70B fp8, TensorRT-LLM", fp8(LLAMA_70B), "h200", 2, 8000, 1000, 2 * 537),
    ("Llama-3.1-405B fp8, TensorRT-LLM", fp8(LLAMA_405B), "h200", 8, 2048, 128, 463),
    ("DeepSeek-R1 fp8, TensorRT-LLM", shapes.KNOWN["deepseek-ai/DeepSeek-V3"], "h200", 8, 1000, 1000, 8 * 1_627),
]
"""Output tokens a second of a whole engine, by prompt and answer tokens."""


@pytest.mark.parametrize(("who", "shape", "kind", "gpus", "prompt", "answer", "public"), PUBLIC)
def test_answers_are_worked_out_within_a_factor_of_two(
    who: str, shape: shapes.Shape, kind: str, gpus: int, prompt: float, answer: float, public: float
) -> None:
    engine = Engine(shape, device(kind), gpus, prompt, answer)
    rate = 10_000 * answer / engine.answers_s(10_000)
    assert public / 2 < rate < 2 * public, f"{who}: {rate:,.0f} a second"


@pytest.mark.parametrize(("kind", "public"), [("h100", 5_762), ("h200", 8_532)])
def test_learning_is_worked_out_within_a_factor_of_two(kind: str, public: float) -> None:
    """Llama-3.1-8B, torchtitan on H100, eager; on H200 compiled with float8."""
    rate = 1 / speeds.learns_s(LLAMA_8B, Train(), False, device(kind))
    assert public / 2 < rate < 2 * public


def test_what_learning_costs_grows_with_what_is_computed() -> None:
    gpu = device("h100")
    plain = speeds.learns_s(LLAMA_8B, Train(), False, gpu)
    assert speeds.learns_s(LLAMA_8B, Train(), True, gpu) == pytest.approx(plain * 8 / 6)
    assert speeds.learns_s(LLAMA_8B, Train(lora=Lora()), False, gpu) == pytest.approx(plain * 4 / 6)
    beside = speeds.learns_s(LLAMA_8B, Train(), False, gpu, teacher=LLAMA_70B)
    assert beside == pytest.approx(plain * (1 + 2 * 70.55 / (6 * 8.03)), rel=0.01)


def test_an_engine_takes_the_rows_whose_cache_fits() -> None:
    whole = Engine(LLAMA_8B, device("h100"), 1, 512, 512)
    assert whole.weights == pytest.approx(16.06e9, rel=0.01)
    assert whole.row == 2 * 2 * 8 * 128 * 32 * 1024
    assert whole.batch == speeds.BATCH
    long = Engine(LLAMA_8B, device("h100"), 1, 8000, 1000)
    assert long.batch == int((80e9 * 0.92 - long.weights) / long.row) < speeds.BATCH
    assert long.answers_s(100, at_once=1) > long.answers_s(100)


@pytest.mark.parametrize(
    ("shape", "kind", "gpus"),
    [(LLAMA_8B, "l4", 1), (LLAMA_70B, "h100", 2), (fp8(LLAMA_405B), "h200", 4), (LLAMA_405B, "h200", 8)]
    + [
        (shapes.KNOWN["deepseek-ai/DeepSeek-V3"], kind, gpus)
        for kind, gpus in (("h200", 8), ("h100", 16), ("a100-80gb", 32))
    ],
)
def test_the_fewest_gpus_that_hold_a_model(shape: shapes.Shape, kind: str, gpus: int) -> None:
    assert speeds.fewest(shape, device(kind), 4096) == gpus

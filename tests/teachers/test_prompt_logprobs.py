"""vLLM's prompt_logprobs: how many tokens one step may have, from memory and vocabulary."""

import pytest
import torch

from raystill import memory
from raystill.errors import ResourceError
from raystill.teachers import prompt_logprobs
from raystill.teachers.prompt_logprobs import LOGIT_BYTES, STEP_BYTES, step_tokens


def test_a_step_takes_what_memory_is_spare_and_no_more_than_is_useful() -> None:
    assert step_tokens(100_000, spare=512 << 20) == (512 << 20) // (LOGIT_BYTES * 100_000)
    assert step_tokens(100_000, spare=1 << 40) == STEP_BYTES // (LOGIT_BYTES * 100_000)


def test_too_little_memory_is_told_with_the_arithmetic() -> None:
    with pytest.raises(
        ResourceError, match=r"128 tokens of a vocabulary of 151936 take 0\.2 GiB .* 0\.1 GiB are spare"
    ):
        step_tokens(151_936, spare=100 << 20)


def test_a_gpu_spares_half_of_what_vllm_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "gpu_bytes", lambda: 80 << 30)
    assert prompt_logprobs.spare_bytes({"gpu_memory_utilization": 0.75}) == 10 << 30
    assert 0 < prompt_logprobs.spare_bytes({}) < 10 << 30


@pytest.mark.slow  # compiles
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_vllms_sampler_takes_no_more_bytes_than_counted(dtype: torch.dtype) -> None:
    from torch.profiler import ProfilerActivity, profile
    from vllm.v1.sample.sampler import Sampler

    tokens, vocabulary = 256, 8192
    hidden, head = torch.randn(tokens, 8, dtype=dtype), torch.randn(8, vocabulary, dtype=dtype)
    sampler = Sampler()

    def step() -> None:
        scores = sampler.compute_logprobs(hidden @ head)
        sampler.gather_logprobs(scores, 50, torch.zeros(tokens, dtype=torch.int64))

    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        step()
    held = peak = 0
    for event in seen.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    assert 4 * tokens * vocabulary < peak <= 1.05 * LOGIT_BYTES * tokens * vocabulary

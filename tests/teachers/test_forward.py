"""Scores by a forward pass: what is stored is what the model says, however it is batched and chunked."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raystill import recipe, targets
from raystill.teachers import forward
from raystill.teachers.forward import Forward
from raystill.teachers.scorer import Asked

ROWS = [Asked([5, 9, 11], [7, 8, 3, 0]), Asked([6] * 20, [12, 13]), Asked([4, 4], [21, 22, 23, 24, 25, 26, 0])]


def made(model: Path, **score: Any) -> Forward:
    return Forward(recipe.Score.model_validate(score), recipe.Teacher(kind="reference"), str(model))


def plain(model: Path, row: Asked) -> torch.Tensor:
    """Log-probabilities of each answer position, by one forward pass over the row alone."""
    from transformers import AutoModelForCausalLM

    whole = AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        logits = whole(torch.tensor([row.prompt_ids + row.completion_ids])).logits[0]
    return logits[len(row.prompt_ids) - 1 : -1].log_softmax(-1)


@pytest.mark.parametrize("logits_bytes", [1, 20_000, 1 << 30])
def test_batches_and_chunks_change_nothing(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, logits_bytes: int
) -> None:
    monkeypatch.setattr(forward, "LOGITS_BYTES", logits_bytes)
    for row, logits in zip(ROWS, made(tiny_model).logits(ROWS), strict=True):
        torch.testing.assert_close(logits.log_softmax(-1), plain(tiny_model, row), atol=1e-5, rtol=1e-4)


def test_the_top_k_and_all_others_are_the_whole(tiny_model: Path) -> None:
    found = asyncio.run(made(tiny_model, k=20).distributions(ROWS))
    for row, kept in zip(ROWS, found, strict=True):
        assert isinstance(kept, targets.TopK)
        exact = plain(tiny_model, row)
        np.testing.assert_allclose(kept.logprobs_TK, exact.topk(20).values, atol=1e-5)
        np.testing.assert_allclose(np.exp(kept.logprobs_TK).sum(-1) + kept.tail_T, 1, atol=1e-5)


def test_a_tail_of_next_to_nothing_keeps_its_digits() -> None:
    logits = torch.tensor([[40.0, 0.0, 0.0, -3.0]], dtype=torch.float64).log_softmax(-1).float()
    expected = (1 + np.exp(-3.0)) / np.exp(40.0)
    assert forward.top_k(logits, 2).tail_T[0] == pytest.approx(expected, rel=1e-3)


def test_temperature_softens_before_anything_is_kept(tiny_model: Path) -> None:
    (kept,) = asyncio.run(made(tiny_model, k=384, temperature=2.0).distributions(ROWS[:1]))
    assert isinstance(kept, targets.TopK)
    softened = (plain(tiny_model, ROWS[0]) / 2).log_softmax(-1)
    np.testing.assert_allclose(
        kept.logprobs_TK, softened.sort(-1, descending=True).values[:, : kept.ids_TK.shape[1]], atol=1e-5
    )


def test_draws_are_unbiased_and_repeatable() -> None:
    probabilities = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    draws = 40_000
    found = forward.sampled(probabilities.log(), draws, seed=1)
    shares = np.zeros((2, 3))
    for t in range(2):
        at = slice(found.offsets_T1[t], found.offsets_T1[t + 1])
        shares[t, found.ids_N[at]] = found.counts_N[at] / draws
    # Four standard errors of a share of one half.
    np.testing.assert_allclose(shares, probabilities, atol=4 * 0.5 / draws**0.5)
    again = forward.sampled(probabilities.log(), draws, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))

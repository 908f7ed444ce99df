"""Scores by a forward pass: what is stored is what the model says, however it is batched and chunked."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from raystill import recipe, targets
from raystill.errors import ResourceError
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


def said(model: Forward, rows: list[Asked]) -> list[torch.Tensor]:
    """Log-probabilities of each row, put together from the chunks."""
    return [torch.cat(pieces).log_softmax(-1) for pieces in zip(*model.chunks(rows), strict=True)]


@pytest.mark.parametrize("logits_bytes", [1, 20_000, 1 << 30])
def test_batches_and_chunks_change_nothing(tiny_model: Path, logits_bytes: int) -> None:
    model = made(tiny_model)
    model.logits_bytes = logits_bytes
    for row, logprobs in zip(ROWS, said(model, ROWS), strict=True):
        torch.testing.assert_close(logprobs, plain(tiny_model, row), atol=1e-5, rtol=1e-4)
        whole = np.concatenate(list(model.dense(row)))
        np.testing.assert_allclose(whole, plain(tiny_model, row), atol=1e-5)


@pytest.mark.parametrize("score", [{"k": 20}, {"support": "sampled", "draws": 12, "temperature": 1.5}])
def test_what_is_kept_does_not_depend_on_chunks(tiny_model: Path, score: dict[str, Any]) -> None:
    model = made(tiny_model, **score)
    whole = asyncio.run(model.distributions(ROWS))
    model.logits_bytes = 5_000
    for ours, theirs in zip(whole, asyncio.run(model.distributions(ROWS)), strict=True):
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)


class Largest(TorchDispatchMode):
    """Notes the largest tensor that is made, in bytes."""

    nbytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for made in tree_leaves(out):
            self.nbytes = max(self.nbytes, made.nbytes if isinstance(made, torch.Tensor) else 0)
        return out


@pytest.mark.parametrize("score", [{"k": 20}, {"support": "sampled"}])
def test_a_long_answer_never_has_all_its_logits_at_once(tiny_model: Path, score: dict[str, Any]) -> None:
    model = made(tiny_model, **score)
    model.logits_bytes = 64 * 4 * model.vocabulary
    with Largest() as seen:
        (found,) = asyncio.run(model.distributions([Asked([5] * 20, [7] * 480)]))
    assert len(found.tail_T if isinstance(found, targets.TopK) else found.offsets_T1[1:]) == 480
    assert seen.nbytes <= 2 * model.logits_bytes  # the draws' float64


def test_the_longest_row_is_computed_from_free_memory(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache_bytes = 2 * 2 * 32 * 4  # layers, keys and values, one head of 32, float32
    free = psutil.virtual_memory()._replace(available=2 * 100 * cache_bytes)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    model = made(tiny_model)
    assert model.longest == 100
    assert model.context == 512
    assert model.logits_bytes == 100 * cache_bytes // forward.COPIES
    with pytest.raises(ResourceError, match=r"a row of 101 tokens takes .* room for 100 tokens"):
        asyncio.run(model.distributions([Asked([5], [7] * 100)]))


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
    probabilities = torch.tensor([[0.5, 0.3, 0.2, 0.0], [0.1, 0.1, 0.8, 0.0]])
    draws = 40_000
    found = forward.sampled(probabilities.log(), draws, seed=1)
    shares = np.zeros((2, 4))
    for t in range(2):
        at = slice(found.offsets_T1[t], found.offsets_T1[t + 1])
        shares[t, found.ids_N[at]] = found.counts_N[at] / draws
    # Four standard errors of a share of one half.
    np.testing.assert_allclose(shares, probabilities, atol=4 * 0.5 / draws**0.5)
    assert (shares[:, 3] == 0).all()
    again = forward.sampled(probabilities.log(), draws, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))

"""What soft targets teach: exact on listed ids and their tail, unbiased on draws, the same for any chunk of positions."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from raystill import plugins, recipe, targets
from raystill.losses import ABSENT, KINDS, TEXT, TRAITS
from raystill.losses.cross_entropy import cross_entropy
from raystill.teachers import forward
from raystill.training import chunks, soft
from raystill.training.objective import Objective, Soft, classes, objective

DIVERGENCES = [kind for kind in KINDS if kind != TEXT]


def random_logits(n: int, vocabulary: int, seed: int, spread: float = 2.0) -> Tensor:
    return spread * torch.randn(n, vocabulary, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def listed(teacher: Tensor, k: int) -> Soft:
    """The teacher's k likeliest ids and its tail, unrounded."""
    logprobs_NV = teacher.log_softmax(1)
    kept_NK, ids_NK = logprobs_NV.topk(k)
    rest_N1 = logprobs_NV.scatter(1, ids_NK, -math.inf).logsumexp(1, keepdim=True)
    return Soft(ids_NK, torch.cat([kept_NK, rest_N1.clamp_min(ABSENT)], 1), torch.ones(len(teacher)), True)


def from_record(rows: np.ndarray) -> Soft:
    ids, logprobs = (torch.as_tensor(rows[name].copy()) for name in ("ids", "logprobs"))
    return Soft(ids.long(), logprobs, torch.ones(len(rows)), True)


def gradient(loss: Objective, logits: Tensor, labels: Tensor, of: Soft | None) -> Tensor:
    leaf = logits.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(leaf, labels, of).sum(), leaf)
    return found


@pytest.mark.parametrize("kind", DIVERGENCES)
@pytest.mark.parametrize("spread", [1.0, 8.0])
def test_listed_ids_give_the_divergence_of_the_merged_tails(kind: str, spread: float) -> None:
    teacher, student = random_logits(6, 60, 0, spread), random_logits(6, 60, 1, spread)
    of = listed(teacher, 7)
    divergence = plugins.load(kind, KINDS, "loss")
    exact = student.clone().requires_grad_()
    q = exact.softmax(1)
    kept = q.gather(1, of.ids_NK)
    rest = q.scatter(1, of.ids_NK, 0.0).sum(1, keepdim=True)
    wanted = divergence(of.teacher_NC, torch.cat([kept, rest], 1).log())
    (wanted_gradient,) = torch.autograd.grad(wanted.sum(), exact)
    of32 = Soft(of.ids_NK, of.teacher_NC.float(), of.given_N, True)
    loss = objective(recipe.Loss(kind=kind), 1.0)
    labels = torch.zeros(6, dtype=torch.long)
    torch.testing.assert_close(loss(student.float(), labels, of32).double(), wanted.detach(), rtol=1e-4, atol=1e-5)
    found = gradient(loss, student.float(), labels, of32)
    torch.testing.assert_close(found.double(), wanted_gradient, rtol=1e-4, atol=1e-5)


def test_a_student_surer_than_float32_can_say_still_has_a_tail() -> None:
    """1 less the listed mass would be 0 here, its log minus infinity, and the gradient NaN."""
    teacher, student = torch.zeros(1, 9), torch.zeros(1, 9)
    student[0, 0] = 60.0
    of = listed(teacher.double(), 1)
    of = Soft(of.ids_NK * 0, of.teacher_NC.float(), of.given_N, True)
    loss = objective(recipe.Loss(kind="forward_kl"), 1.0)
    value = loss(student, torch.zeros(1, dtype=torch.long), of)
    # 8/9 of the teacher's mass lies where the student has 8 e**-60.
    assert float(value) == pytest.approx(8 / 9 * (60 - math.log(8)) + 1 / 9 * math.log(1 / 9) + 8 / 9 * math.log(8 / 9))
    found = gradient(loss, student, torch.zeros(1, dtype=torch.long), of)
    torch.testing.assert_close(found[0], torch.tensor([8 / 9] + [-1 / 9] * 8))


@given(
    seed=st.integers(0, 2**31), vocabulary=st.integers(3, 80), share=st.floats(0.0, 1.0), spread=st.floats(0.1, 10.0)
)
@settings(max_examples=50, deadline=None)
def test_forward_kl_is_exact_on_listed_ids_and_on_the_tails_sum(
    seed: int, vocabulary: int, share: float, spread: float
) -> None:
    """The dense gradient is q - p. On a tail only its sum can be known, and that is exact."""
    teacher, student = random_logits(3, vocabulary, seed, spread), random_logits(3, vocabulary, seed + 1, spread)
    of = listed(teacher, max(1, int(share * vocabulary)))
    dense = student.softmax(1) - teacher.softmax(1)
    of32 = Soft(of.ids_NK, of.teacher_NC.float(), of.given_N, True)
    labels = torch.zeros(3, dtype=torch.long)
    found = gradient(objective(recipe.Loss(kind="forward_kl"), 1.0), student.float(), labels, of32).double()
    torch.testing.assert_close(found.gather(1, of.ids_NK), dense.gather(1, of.ids_NK), rtol=1e-4, atol=1e-5)
    outside = torch.ones_like(dense).scatter(1, of.ids_NK, 0.0)
    torch.testing.assert_close((found * outside).sum(1), (dense * outside).sum(1), rtol=1e-4, atol=1e-5)


CHI2_30 = (10.80, 62.16)
"""Quantiles 0.0005 and 0.9995 of chi-square with 30 degrees of freedom: a test at significance 0.001, both sides."""


def chi2(of_draws: Tensor, p: Tensor, draws: int) -> float:
    """Pearson's statistic of draws that a mean gradient tells, since each draw takes 1/n from its id."""
    return float(draws * ((of_draws - p).square() / p).sum())


def mean_gradient(p_logits: Tensor, student: Tensor, draws: int, repeats: int, seed: int) -> Tensor:
    """Mean gradient over many draws of one distribution, each through the store's bytes and the trainer's records."""
    logprobs_TV = p_logits.log_softmax(1).float().expand(repeats, -1)
    drawn = forward.sampled(logprobs_TV, draws, np.random.default_rng(seed))
    rows = soft.of_draws(targets.pack_sampled(*drawn, logprobs_TV.shape[1]))
    loss = objective(recipe.Loss(kind="forward_kl"), 1.0)
    logits = student.float().expand(repeats, -1).contiguous()
    return gradient(loss, logits, torch.zeros(repeats, dtype=torch.long), from_record(rows)).double().mean(0)


def test_draws_give_the_dense_gradient_in_the_mean() -> None:
    teacher, student = random_logits(1, 31, 3, 1.0), random_logits(1, 31, 4, 1.0)
    p, q = teacher.softmax(1)[0], student.softmax(1)[0]
    draws, repeats = 12, 4000
    found = mean_gradient(teacher, student, draws, repeats, seed=5)
    assert CHI2_30[0] < chi2(q - found, p, draws * repeats) < CHI2_30[1]


def test_renormalised_top_k_fails_the_same_test() -> None:
    """The same statistic shows a biased estimator: k ids with their probabilities scaled to one."""
    teacher = random_logits(1, 31, 3, 1.0)
    p = teacher.softmax(1)[0]
    kept, ids = p.topk(12)
    biased = torch.zeros_like(p).scatter(0, ids, kept / kept.sum())
    assert chi2(biased, p, 12 * 4000) > 100 * CHI2_30[1]


def test_more_draws_have_less_noise_as_a_mean_has() -> None:
    """Variance 1/n: over 400 repeats the squared error of 48 draws is a quarter of that of 12, within 20%."""
    teacher, student = random_logits(1, 31, 3, 1.0), random_logits(1, 31, 4, 1.0)
    errors = {}
    for draws in (12, 48):
        drawn = forward.sampled(teacher.log_softmax(1).float().expand(400, -1), draws, np.random.default_rng(6))
        rows = soft.of_draws(targets.pack_sampled(*drawn, 31))
        logits = student.float().expand(400, -1).contiguous()
        found = gradient(
            objective(recipe.Loss(kind="forward_kl"), 1.0),
            logits,
            torch.zeros(400, dtype=torch.long),
            from_record(rows),
        )
        errors[draws] = float((found - (student.softmax(1) - teacher.softmax(1))).square().sum())
    assert errors[12] / errors[48] == pytest.approx(4, rel=0.2)


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_the_gradients_size_does_not_change_with_temperature(kind: str) -> None:
    """In the limit of small logits, where the factor is exact."""
    teacher, student = random_logits(4, 50, 7, 0.01).float(), random_logits(4, 50, 8, 0.01).float()
    labels = torch.zeros(4, dtype=torch.long)
    sizes = []
    for temperature in (1.0, 2.0, 4.0):
        of = listed(teacher.double() / temperature, 20)
        of = Soft(of.ids_NK, of.teacher_NC.float(), of.given_N, True)
        sizes.append(float(gradient(objective(recipe.Loss(kind=kind), temperature), student, labels, of).norm()))
    assert sizes == pytest.approx([sizes[0]] * 3, rel=0.05)


def test_alpha_mixes_and_a_position_without_targets_learns_from_text_alone() -> None:
    student, teacher = random_logits(4, 30, 0).float(), random_logits(4, 30, 1)
    of = listed(teacher, 5)
    of = Soft(of.ids_NK, of.teacher_NC.float(), torch.tensor([1.0, 0.0, 1.0, 0.0]), False)
    labels = torch.tensor([3, 1, 4, 1])
    text = cross_entropy(student, labels)
    whole = objective(recipe.Loss(kind="forward_kl"), 1.0)(student, labels, of)
    half = objective(recipe.Loss(kind="forward_kl", alpha=0.25), 1.0)(student, labels, of)
    torch.testing.assert_close(whole[[1, 3]], text[[1, 3]])
    torch.testing.assert_close(half[[1, 3]], text[[1, 3]])
    torch.testing.assert_close(half[[0, 2]], 0.25 * whole[[0, 2]] + 0.75 * text[[0, 2]])


def test_settings_of_the_recipe_reach_the_divergence() -> None:
    student, of = random_logits(2, 30, 0).float(), listed(random_logits(2, 30, 1), 5)
    of = Soft(of.ids_NK, of.teacher_NC.float(), of.given_N, True)
    labels = torch.zeros(2, dtype=torch.long)
    changed: dict[str, dict[str, Any]] = {
        "jensen_shannon": {"beta": 0.9}, "skew_kl": {"skew": 0.6}, "skew_reverse_kl": {"skew": 0.6},
        "adaptive_kl": {"head": 0.99},
    }  # fmt: skip
    assert {k: set(v) for k, v in changed.items()} == {k: set(t.settings) for k, t in TRAITS.items() if t.settings}
    for kind, chosen in changed.items():
        default, other = (objective(recipe.Loss(kind=kind, **s), 1.0)(student, labels, of) for s in ({}, chosen))
        assert not torch.allclose(default, other), kind


def test_all_ids_listed_is_the_whole_vocabulary() -> None:
    teacher, student = random_logits(3, 12, 0), random_logits(3, 12, 1).float()
    rows = soft.of_top_k(targets.pack_topk(*forward.top_k(teacher.log_softmax(1).float(), 12), 12))
    p, q = classes(student, from_record(rows))
    assert (p[:, -1] == ABSENT).all() and (q[:, -1] < ABSENT / 2).all()
    torch.testing.assert_close(q[:, :-1].exp().sum(1), torch.ones(3))


@given(
    n=st.integers(0, 20),
    chunk=st.integers(1, 25),
    alpha=st.sampled_from([0.3, 1.0]),
    kind=st.sampled_from(DIVERGENCES),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_chunks_change_neither_loss_nor_gradient(n: int, chunk: int, alpha: float, kind: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    hidden, weight = torch.randn(n, 6, generator=generator), torch.randn(40, 6, generator=generator)
    labels = torch.randint(0, 40, (n,), generator=generator)
    of = listed(random_logits(n, 40, seed), 4)
    given_N = (torch.rand(n, generator=generator) < 0.7).float()
    of = Soft(of.ids_NK, of.teacher_NC.float(), given_N, bool(given_N.all()))
    loss = objective(recipe.Loss(kind=kind, alpha=alpha), 2.0)

    def summed(logits_CV: Tensor, at: slice) -> Tensor:
        return loss(logits_CV, labels[at], of[at]).sum()

    whole_leaves = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    whole = summed(whole_leaves[0] @ whole_leaves[1].T, slice(None))
    leaves = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    found = chunks.summed(*leaves, summed, chunk)
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-5)
    for ours, wanted in zip(
        torch.autograd.grad(3 * found, leaves), torch.autograd.grad(3 * whole, whole_leaves), strict=True
    ):
        torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(chunks.summed(hidden, weight, summed, chunk), whole.detach(), rtol=1e-5, atol=1e-5)


def test_a_head_that_does_not_learn_costs_no_gradient() -> None:
    hidden, weight = torch.randn(5, 6).requires_grad_(), torch.randn(40, 6)
    found = chunks.summed(
        hidden, weight, lambda logits, at: cross_entropy(logits, torch.zeros(len(logits)).long()).sum(), 2
    )
    found.backward()
    assert weight.grad is None and hidden.grad is not None


def test_logits_of_all_positions_never_exist() -> None:
    """No tensor that is made during a forward and backward pass is larger than one chunk's logits or the head."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for made in out if isinstance(out, tuple | list) else [out]:
                largest = max(largest, made.numel()) if isinstance(made, Tensor) else largest
            return out

    n, vocabulary, chunk = 64, 500, 8
    hidden, weight = torch.randn(n, 6).requires_grad_(), torch.randn(vocabulary, 6).requires_grad_()
    of = listed(random_logits(n, vocabulary, 0), 10)
    of = Soft(of.ids_NK, of.teacher_NC.float(), of.given_N, True)
    labels, loss = torch.zeros(n, dtype=torch.long), objective(recipe.Loss(kind="reverse_kl", alpha=0.5), 1.0)
    with Watch():
        chunks.summed(hidden, weight, lambda z, at: loss(z, labels[at], of[at]).sum(), chunk).backward()
    assert largest == max(chunk * vocabulary, weight.numel())

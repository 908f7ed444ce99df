"""Values and gradients against a dense float64 reference that is written out, id by id."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from raystill import plugins
from raystill.losses import ABSENT, KINDS, TEXT

Reference = Callable[[Tensor, Tensor], Tensor]


def kl(p: Tensor, q: Tensor) -> Tensor:
    return (p * (p / q).log()).sum()


def akl(p: Tensor, q: Tensor) -> Tensor:
    order = sorted(range(len(p)), key=lambda i: -float(p[i]))
    head, mass = [order[0]], float(p[order[0]])
    for i in order[1:]:
        mass += float(p[i])
        if mass > 0.5:
            break
        head.append(i)
    gap = (p - q).detach().abs()
    share = gap[head].sum() / gap.sum()
    return share * kl(p, q) + (1 - share) * kl(q, p)


REFERENCE: dict[str, Reference] = {
    "forward_kl": kl,
    "reverse_kl": lambda p, q: kl(q, p),
    "jensen_shannon": lambda p, q: kl(p, (p + q) / 2) / 2 + kl(q, (p + q) / 2) / 2,
    "skew_kl": lambda p, q: kl(p, 0.1 * p + 0.9 * q),
    "skew_reverse_kl": lambda p, q: kl(q, 0.9 * p + 0.1 * q),
    "total_variation": lambda p, q: torch.maximum(p - q, torch.zeros_like(p)).sum(),
    "adaptive_kl": akl,
    "generalised_kl": kl,
}
"""Each divergence over a whole vocabulary, from its paper."""


def log_softmax(logits: Tensor) -> Tensor:
    """All ids listed, and nothing in the tail."""
    absent = logits.new_full((len(logits), 1), ABSENT)
    return torch.cat([logits, absent], 1).log_softmax(1)


def test_every_divergence_has_its_reference() -> None:
    assert set(REFERENCE) == set(KINDS) - {TEXT}


@pytest.mark.parametrize("kind", REFERENCE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), spread=st.floats(0.1, 6.0), vocabulary=st.integers(2, 40))
def test_value_and_gradient_are_the_papers(
    kind: str, dtype: torch.dtype, seed: int, spread: float, vocabulary: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    teacher, student = (spread * torch.randn(3, vocabulary, generator=generator, dtype=torch.float64) for _ in range(2))
    exact = student.clone().requires_grad_()
    wanted = torch.stack([REFERENCE[kind](t.softmax(0), s.softmax(0)) for t, s in zip(teacher, exact, strict=True)])
    (wanted_gradient,) = torch.autograd.grad(wanted.sum(), exact)
    ours = student.to(dtype).requires_grad_()
    found = plugins.load(kind, KINDS, "loss")(log_softmax(teacher.to(dtype)), log_softmax(ours))
    (gradient,) = torch.autograd.grad(found.sum(), ours)
    close = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 2e-5}
    torch.testing.assert_close(found.double(), wanted.detach(), **close)
    torch.testing.assert_close(gradient.double(), wanted_gradient, **close)


@pytest.mark.parametrize("kind", REFERENCE)
def test_equal_sides_have_neither_loss_nor_gradient(kind: str) -> None:
    logits = torch.randn(4, 30, generator=torch.Generator().manual_seed(1)).requires_grad_()
    found = plugins.load(kind, KINDS, "loss")(log_softmax(logits.detach()), log_softmax(logits))
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    torch.testing.assert_close(found, torch.zeros(4), rtol=0, atol=1e-6)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-6)


def test_the_settings_reach_the_papers_ends() -> None:
    generator = torch.Generator().manual_seed(2)
    teacher, student = (log_softmax(torch.randn(5, 20, generator=generator, dtype=torch.float64)) for _ in range(2))

    def loss(kind: str, **settings: float) -> Tensor:
        found: Tensor = plugins.load(kind, KINDS, "loss")(teacher, student, **settings)
        return found

    near = {"rtol": 1e-3, "atol": 1e-6}
    torch.testing.assert_close(loss("jensen_shannon", beta=1e-5) / 1e-5, loss("forward_kl"), **near)
    torch.testing.assert_close(loss("jensen_shannon", beta=1 - 1e-5) / 1e-5, loss("reverse_kl"), **near)
    torch.testing.assert_close(loss("skew_kl", skew=1e-6), loss("forward_kl"), **near)
    torch.testing.assert_close(loss("skew_reverse_kl", skew=1e-6), loss("reverse_kl"), **near)
    assert float(loss("jensen_shannon").max()) < math.log(2)


def test_adaptive_kl_turns_with_its_head() -> None:
    teacher = torch.tensor([[0.4, 0.3, 0.2, 0.1]], dtype=torch.float64).log()
    student = torch.tensor([[0.4, 0.3, 0.1, 0.2]], dtype=torch.float64).log()
    adaptive, forward, reverse = (plugins.load(k, KINDS, "loss") for k in ("adaptive_kl", "forward_kl", "reverse_kl"))
    # The two agree on the first 0.7 of the teacher's mass.
    torch.testing.assert_close(adaptive(teacher, student, head=0.75), reverse(teacher, student))
    torch.testing.assert_close(
        adaptive(teacher, student, head=0.9001), (forward(teacher, student) + reverse(teacher, student)) / 2
    )

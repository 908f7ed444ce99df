"""The values of TRL and of Liger where they compute the same thing. TRL's own dense losses carry no factor of T**2."""

import math

import pytest
import torch
from torch import Tensor

from raystill import recipe
from raystill.losses import ABSENT
from raystill.training import chunks
from raystill.training.objective import Soft, objective

pytestmark = pytest.mark.slow  # TRL takes ten seconds to import

BETAS = [0.0, 0.1, 0.5, 0.9, 1.0]
"""TRL and Liger call forward KL beta 0 and reverse KL beta 1."""


def loss_of(beta: float, alpha: float = 1.0) -> recipe.Loss:
    ends = {0.0: "forward_kl", 1.0: "reverse_kl"}
    kind = ends.get(beta, "jensen_shannon")
    return recipe.Loss(kind=kind, alpha=alpha, **({} if beta in ends else {"beta": beta}))


def whole(logits_NV: Tensor) -> Soft:
    """All ids listed."""
    ids_NV = torch.arange(logits_NV.shape[1]).expand(len(logits_NV), -1)
    absent_N1 = torch.full((len(logits_NV), 1), ABSENT)
    return Soft(ids_NV, torch.cat([logits_NV.log_softmax(1), absent_N1], 1), torch.ones(len(logits_NV)), True)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_trls_gkd(beta: float, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    trl = pytest.importorskip("trl.experimental.gkd")
    teacher, student = torch.randn(2, 7, 50, generator=torch.Generator().manual_seed(0))
    student.requires_grad_()
    theirs = trl.GKDTrainer.generalized_jsd_loss(
        student[None], teacher[None], beta=beta, temperature=temperature, reduction="sum"
    )
    labels = torch.zeros(7, dtype=torch.long)
    ours = objective(loss_of(beta), temperature)(student, labels, whole(teacher / temperature)).sum()
    torch.testing.assert_close(ours, temperature**2 * theirs, rtol=1e-5, atol=1e-6)
    found, wanted = (torch.autograd.grad(x, student, retain_graph=True)[0] for x in (ours, temperature**2 * theirs))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_trls_tail_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    trl = pytest.importorskip("trl.experimental.server_distillation.server_distillation_trainer")
    teacher, student = torch.randn(2, 7, 50, generator=torch.Generator().manual_seed(1))
    kept_NK, ids_NK = teacher.log_softmax(1).topk(6)
    mask = torch.ones_like(ids_NK, dtype=torch.bool)
    p, _ = trl._add_tail_bucket(kept_NK, mask)
    q, _ = trl._add_tail_bucket(student.log_softmax(1).gather(1, ids_NK), mask)
    theirs = (p.exp() * (p - q)).sum(1)
    tail_N1 = torch.log1p(-kept_NK.exp().sum(1, keepdim=True))
    of = Soft(ids_NK, torch.cat([kept_NK, tail_N1], 1), torch.ones(7), True)
    ours = objective(recipe.Loss(kind="forward_kl"), 1.0)(student, torch.zeros(7, dtype=torch.long), of)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("alpha", [0.4, 1.0])
def test_ligers_fused_distillation(beta: float, alpha: float) -> None:
    liger = pytest.importorskip("liger_kernel.chunked_loss.jsd_loss")
    generator = torch.Generator().manual_seed(2)
    n, vocabulary = 12, 50
    hidden, weight = torch.randn(n, 6, generator=generator), torch.randn(vocabulary, 6, generator=generator)
    of_teacher, head = torch.randn(n, 8, generator=generator), torch.randn(vocabulary, 8, generator=generator)
    labels = torch.randint(0, vocabulary, (n,), generator=generator)
    theirs_leaves = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    fused = liger.LigerFusedLinearJSDLoss(1 - alpha, alpha, beta=beta, compiled=False, chunk_size=5)
    theirs = n * fused(*theirs_leaves, of_teacher, head, labels)
    leaves = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    of, loss = whole(of_teacher @ head.T), objective(loss_of(beta, alpha), 1.0)
    ours = chunks.summed(*leaves, lambda logits, at: loss(logits, labels[at], of[at]).sum(), 5)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for found, wanted in zip(
        torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, theirs_leaves), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert math.isfinite(float(ours.detach()))

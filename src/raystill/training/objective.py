"""The loss at each supervised position: text, soft targets, or a mix of both.

N = positions, V = the student's vocabulary, K = listed ids per position, C = K + 1 classes: the listed ids and, last, all
others together.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from raystill import losses, plugins
from raystill.losses import ABSENT
from raystill.losses.cross_entropy import cross_entropy
from raystill.training.dense import Dense

if TYPE_CHECKING:
    from raystill import recipe


@dataclass(frozen=True)
class Soft:
    """What the teacher thinks at N positions."""

    ids_NK: Tensor
    """Listed ids. A class that is ABSENT repeats another id of its row."""
    teacher_NC: Tensor
    """Natural-log probabilities at the temperature of the targets, float32."""
    given_N: Tensor
    """1 where there are targets; where there are none, 0, and the other two hold some other position's."""
    everywhere: bool
    """Whether all N have targets."""
    beyond_V: Tensor | None = None
    """Which ids draws cannot name, in another tokenizer; the last class is these, and what is not drawn has none."""

    def __getitem__(self, at: slice) -> "Soft":
        return Soft(self.ids_NK[at], self.teacher_NC[at], self.given_N[at], self.everywhere, self.beyond_V)


@dataclass(frozen=True)
class Objective:
    """(1 - alpha) cross-entropy + alpha T**power divergence; cross-entropy alone where a position has no targets."""

    divergence: "losses.Divergence | None" = None
    alpha: float = 1.0
    temperature: float = 1.0
    power: int = 2

    def __call__(self, logits_NV: Tensor, labels_N: Tensor, soft: Soft | Dense | None) -> Tensor:
        """loss_N in float32."""
        if self.divergence is None or soft is None:
            return cross_entropy(logits_NV, labels_N)
        share_N = self.alpha * soft.given_N
        softened_NV = logits_NV.float() if self.temperature == 1 else logits_NV.float() / self.temperature
        if isinstance(soft, Dense):
            teacher_NC, student_NC = soft.classes(softened_NV, self.temperature)
        else:
            teacher_NC, student_NC = classes(softened_NV, soft)
        loss_N = share_N * self.temperature**self.power * self.divergence(teacher_NC, student_NC)
        if self.alpha == 1 and soft.everywhere:
            return loss_N
        return loss_N + (1 - share_N) * cross_entropy(logits_NV, labels_N)


def objective(loss: "recipe.Loss", temperature: float) -> Objective:
    """The recipe's loss, with the temperature at which its targets were scored."""
    if loss.kind == losses.TEXT:
        return Objective()
    traits = losses.traits(loss.kind)
    divergence = plugins.load(loss.kind, losses.KINDS, "loss")
    chosen = {name: getattr(loss, name) for name in traits.settings if getattr(loss, name) is not None}
    return Objective(lambda p, q: divergence(p, q, **chosen), loss.alpha, temperature, traits.power)


def classes(logits_NV: Tensor, soft: Soft) -> tuple[Tensor, Tensor]:
    """Log-probabilities of teacher and student over the same C classes."""
    if soft.beyond_V is not None:
        return soft.teacher_NC, _of_draws(logits_NV, soft.ids_NK, soft.beyond_V)
    logits_NC: Tensor = _Classes.apply(logits_NV, soft.ids_NK)  # type: ignore[no-untyped-call]
    listed_NK, tail_N1 = logits_NC[:, :-1], logits_NC[:, -1:]
    absent_NK = soft.teacher_NC[:, :-1] == ABSENT
    student_NC = torch.cat([listed_NK.masked_fill(absent_NK, ABSENT), tail_N1], 1).log_softmax(1)
    if soft.ids_NK.shape[1] < logits_NV.shape[1]:
        return soft.teacher_NC, student_NC
    return torch.cat([soft.teacher_NC[:, :-1], torch.full_like(tail_N1, ABSENT)], 1), student_NC


def _of_draws(logits_NV: Tensor, ids_NK: Tensor, beyond_V: Tensor) -> Tensor:
    """The student's log-probabilities of drawn ids and, last, of all ids that cannot be drawn.

    Were the last class all ids that were not drawn, as for listed ones, its mean over draws would not be the divergence.
    """
    whole_N1 = logits_NV.logsumexp(1, keepdim=True)
    tail_N1 = logits_NV.masked_fill(~beyond_V, ABSENT).logsumexp(1, keepdim=True)
    return torch.cat([logits_NV.gather(1, ids_NK), tail_N1], 1) - whole_N1


class _Classes(torch.autograd.Function):
    """Logits of C classes: those of the listed ids, and the log-sum over all others.

    The tail is summed over its own ids: 1 minus the listed mass would lose every digit of a tail below 1e-7. By hand: with
    the output head, at K = 50 and V = 49,152, autograd's own way takes 1.31 of cross-entropy's time and this one 1.02.
    """

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, ids_NK: Tensor) -> Tensor:
        others_NV = logits_NV.scatter(1, ids_NK, ABSENT)
        tail_N1 = others_NV.logsumexp(1, keepdim=True)
        ctx.share_NV = others_NV.sub_(tail_N1).exp_()
        ctx.save_for_backward(ids_NK)
        return torch.cat([logits_NV.gather(1, ids_NK), tail_N1], 1)

    @staticmethod
    def backward(ctx: Any, by_NC: Tensor) -> tuple[Tensor, None]:
        (ids_NK,) = ctx.saved_tensors
        by_logits_NV = ctx.share_NV * by_NC[:, -1:]
        return by_logits_NV.scatter_add_(1, ids_NK, by_NC[:, :-1]), None

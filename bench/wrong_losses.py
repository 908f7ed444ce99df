"""Losses over top-k targets as other tools compute them, without the tail: a warning, for `evidence.py`.

As plugged-in divergences of (teacher_NC, student_NC): both hold the whole vocabulary's probabilities, the tail's last. None
of them is zero only where student and teacher agree; docs/losses.md has what each makes of a student.
"""

import torch
from torch import Tensor


def truncated(teacher_NC: Tensor, student_NC: Tensor) -> Tensor:
    """loss_N: p log(p/q) summed over the listed ids alone. It falls, even below 0, as the student puts all mass on them."""
    p, q = teacher_NC[:, :-1], student_NC[:, :-1]
    return (p.exp() * (p - q)).sum(1)


def renormalised(teacher_NC: Tensor, student_NC: Tensor) -> Tensor:
    """loss_N: forward KL after both sides were scaled to one over the listed ids: says nothing of the mass on them."""
    p, q = teacher_NC[:, :-1].log_softmax(1), student_NC[:, :-1].log_softmax(1)
    return torch.nn.functional.kl_div(q, p, reduction="none", log_target=True).sum(1)

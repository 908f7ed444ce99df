"""Generalised Jensen-Shannon divergence: both sides against their mixture (GKD, Agarwal et al. 2023, arXiv 2306.13649).

    m = beta p + (1 - beta) q        beta KL(p, m) + (1 - beta) KL(q, m)

Bounded by log 2 at beta 0.5. Divided by beta it tends to the forward KL as beta goes to 0; at 1, by 1 - beta, to the reverse.
"""

import math

from torch import Tensor


def jensen_shannon(teacher_NC: Tensor, student_NC: Tensor, beta: float = 0.5) -> Tensor:
    """loss_N; `beta` is the teacher's share of the mixture."""
    mixture_NC = (teacher_NC + math.log(beta)).logaddexp(student_NC + math.log1p(-beta))
    of_teacher_NC = teacher_NC.exp() * (teacher_NC - mixture_NC)
    of_student_NC = student_NC.exp() * (student_NC - mixture_NC)
    return (beta * of_teacher_NC + (1 - beta) * of_student_NC).sum(-1)

"""Skew KL: forward KL against a student that already holds some of the teacher (DistiLLM, Ko et al. 2024, arXiv 2402.03898).

KL(p, skew p + (1 - skew) q)        bounded by -log skew, so no single token can dominate a step
"""

import math

from torch import Tensor


def skew_kl(teacher_NC: Tensor, student_NC: Tensor, skew: float = 0.1) -> Tensor:
    """loss_N; `skew` is the teacher's share of the mixture."""
    mixture_NC = (teacher_NC + math.log(skew)).logaddexp(student_NC + math.log1p(-skew))
    return (teacher_NC.exp() * (teacher_NC - mixture_NC)).sum(-1)

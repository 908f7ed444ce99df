"""Skew reverse KL: reverse KL against a teacher that already holds some of the student (DistiLLM, arXiv 2402.03898).

KL(q, (1 - skew) p + skew q)        bounded by -log skew
"""

import math

from torch import Tensor


def skew_reverse_kl(teacher_NC: Tensor, student_NC: Tensor, skew: float = 0.1) -> Tensor:
    """loss_N; `skew` is the student's share of the mixture."""
    mixture_NC = (teacher_NC + math.log1p(-skew)).logaddexp(student_NC + math.log(skew))
    return (student_NC.exp() * (student_NC - mixture_NC)).sum(-1)

"""KL(teacher, student): the student must find likely whatever the teacher does (Hinton et al. 2015, arXiv 1503.02531).

    sum over c of p_c (log p_c - log q_c)        gradient on the student's logits: q - p

Also right for random draws, with p the share of each drawn id: its gradient has the mean q - p over the draws (random
sampling distillation, arXiv 2503.16870). Its value is then the draws' own, which is above KL by the entropy they lack.
"""

from torch import Tensor


def forward_kl(teacher_NC: Tensor, student_NC: Tensor) -> Tensor:
    """loss_N."""
    return (teacher_NC.exp() * (teacher_NC - student_NC)).sum(-1)

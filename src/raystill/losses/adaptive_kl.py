"""Adaptive KL: forward and reverse KL, weighted by where the two differ (Wu et al. 2024, arXiv 2404.02657).

    g_head, g_tail = sum of |p_c - q_c| over the teacher's likeliest classes up to the mass `head`, and over the others
    (g_head KL(p, q) + g_tail KL(q, p)) / (g_head + g_tail)

Forward KL fits the head of a distribution first and reverse KL its tail. The weights are not differentiated.
"""

import torch
from torch import Tensor


def adaptive_kl(teacher_NC: Tensor, student_NC: Tensor, head: float = 0.5) -> Tensor:
    """loss_N; the likeliest listed class is always in the head, and the class of all others never."""
    p_NC, q_NC = teacher_NC.exp(), student_NC.exp()
    with torch.no_grad():
        listed_NK, order_NK = p_NC[:, :-1].sort(-1, descending=True)
        gap_NK = (p_NC - q_NC).abs()[:, :-1].gather(1, order_NK)
        in_head_NK = listed_NK.cumsum(-1) <= head
        in_head_NK[:, 0] = True
        of_head_N = gap_NK.where(in_head_NK, 0).sum(-1)
        of_all_N = (p_NC - q_NC).abs().sum(-1)
        # Where both agree everywhere, both divergences are 0 and any weight does.
        share_N = torch.where(of_all_N > 0, of_head_N / of_all_N, 0.5)
    forward_N = (p_NC * (teacher_NC - student_NC)).sum(-1)
    reverse_N = (q_NC * (student_NC - teacher_NC)).sum(-1)
    return share_N * forward_N + (1 - share_N) * reverse_N

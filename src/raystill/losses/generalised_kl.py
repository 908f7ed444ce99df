"""Generalised KL over the listed ids alone, for measures that need not sum to one (MOPD, arXiv 2606.30406).

    sum over the k ids of p_c log (p_c / q_c) - p_c + q_c        never negative, zero only where p = q on all k

With all V ids listed it is the forward KL. With k of them it holds the student's mass on them in place, as the tail does in
`forward_kl`, and pulls back more weakly where the student has given them too much.
"""

from torch import Tensor


def generalised_kl(teacher_NC: Tensor, student_NC: Tensor) -> Tensor:
    """loss_N; the class of all others is not looked at."""
    p_NK, q_NK = teacher_NC[:, :-1].exp(), student_NC[:, :-1].exp()
    return (p_NK * (teacher_NC - student_NC)[:, :-1] - p_NK + q_NK).sum(-1)

"""Total variation: the most that the two can disagree about any set of tokens (Wen et al. 2023, arXiv 2307.15190).

    1/2 sum over c of |p_c - q_c|        from 0 to 1

Its gradient does not shrink as the two agree, as it has a corner there: it falls with 1/T, not with its square.
"""

from torch import Tensor


def total_variation(teacher_NC: Tensor, student_NC: Tensor) -> Tensor:
    """loss_N."""
    return (teacher_NC.exp() - student_NC.exp()).abs().sum(-1) / 2

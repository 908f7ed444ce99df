"""KL(student, teacher): the student must avoid what the teacher finds unlikely, and may leave out some of what it finds
likely (MiniLLM, Gu et al. 2023, arXiv 2306.08543).

    sum over c of q_c (log q_c - log p_c)

The teacher's probability of an id in the tail is not known; only the tail's sum is, and the student's is held against it.
"""

from torch import Tensor


def reverse_kl(teacher_NC: Tensor, student_NC: Tensor) -> Tensor:
    """loss_N."""
    return (student_NC.exp() * (student_NC - teacher_NC)).sum(-1)

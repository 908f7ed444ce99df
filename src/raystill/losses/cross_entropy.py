"""Learning from text: minus the log-probability of the token that was written.

In expectation over a teacher's own text at temperature 1 this is the forward KL up to the teacher's entropy: sequence-level
distillation (Kim and Rush 2016, arXiv 1606.07947).
"""

from torch import Tensor
from torch.nn import functional as F


def cross_entropy(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """loss_N, in fp32 whatever the logits are: bf16 has 8 bits of mantissa, a log-sum over 50k entries needs more."""
    return F.cross_entropy(logits_NV.float(), labels_N, reduction="none")

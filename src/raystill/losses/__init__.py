"""What the student minimises: pure torch mathematics, one loss per file.

A loss is a function (logits_NV, labels_N) -> loss_N over N supervised positions and V vocabulary entries. It returns one
natural-log loss per position and reduces nothing: the loop divides the sum by the supervised tokens of the global batch, so
a loss means the same for any micro-batch, accumulation, number of workers or packing. logits_NV may be bfloat16.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    Loss = Callable[[Tensor, Tensor], Tensor]

KINDS: dict[str, str] = {"cross_entropy": "raystill.losses.cross_entropy:cross_entropy"}

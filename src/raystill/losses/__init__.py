"""What the student minimises: pure torch mathematics, one loss per file.

`cross_entropy` learns from the text that was written, as a function (logits_NV, labels_N) -> loss_N. All others are
divergences: they learn from what the teacher thinks of every token that could have come next, as functions
(teacher_NC, student_NC, **settings) -> loss_N over N positions and C classes. Both arguments are natural log-probabilities
in float32 that sum to one. A class is a token id; the last one stands for all ids that are not listed (the tail), so that
nothing is ever renormalised over the listed ones. A class that cannot occur is ABSENT.

With all V ids listed and an absent tail this is the paper's formula. With the teacher's k likeliest ids it is the same
formula between the two distributions after their tails are merged into one id: zero only where they agree on the k ids and
on the tail, and by the data-processing inequality never above the value over all V.

A loss reduces nothing: the loop divides the sum by the supervised tokens of the global batch, so a loss means the same for
any micro-batch, accumulation, number of workers or packing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    Divergence = Callable[[Tensor, Tensor], Tensor]

TEXT = "cross_entropy"
KINDS: dict[str, str] = {
    name: f"raystill.losses.{name}:{name}"
    for name in (
        TEXT,
        "forward_kl",
        "reverse_kl",
        "jensen_shannon",
        "skew_kl",
        "skew_reverse_kl",
        "total_variation",
        "adaptive_kl",
        "generalised_kl",
    )
}
ABSENT = -1e30
"""Log-probability of a class that cannot occur: finite, so that nothing times it is nothing and no gradient is NaN."""
LEAST_TAIL = 2.0**-24
"""A stored tail of 0, where not all ids are listed, is read as this: float32 log-probabilities cannot tell them apart."""


@dataclass(frozen=True)
class Traits:
    """What a divergence can be computed from, and which of the recipe's settings it takes."""

    settings: tuple[str, ...] = ()
    sampled: bool = False
    """Whether random draws are enough: only where the teacher enters as an expectation over its own tokens."""
    power: int = 2
    """The power of the temperature that keeps the gradient's size: its two factors 1/T are the softmax's derivative and,
    for divergences that are smooth where both sides agree, the difference of the two sides."""


TRAITS: dict[str, Traits] = {
    "forward_kl": Traits(sampled=True),
    "jensen_shannon": Traits(settings=("beta",)),
    "skew_kl": Traits(settings=("skew",)),
    "skew_reverse_kl": Traits(settings=("skew",)),
    "total_variation": Traits(power=1),
    "adaptive_kl": Traits(settings=("head",)),
}
"""Those that differ from `Traits()`, which is also what a user's own divergence has."""


def traits(kind: str) -> Traits:
    """The traits of a divergence."""
    return TRAITS.get(kind, Traits())

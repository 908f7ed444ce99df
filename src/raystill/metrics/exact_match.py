"""exact_match: the share of answers equal to their reference but for whitespace."""

from collections.abc import Sequence

from raystill.metrics import Sums, mean


def exact_match(answers: Sequence[str], references: Sequence[str]) -> Sums:
    """One value of 0 or 1 per row; case and punctuation count."""
    return mean([float(a.split() == r.split()) for a, r in zip(answers, references, strict=True)])

"""Wilson's score interval of a share (Wilson, "Probable Inference", J. Am. Stat. Assoc. 1927): right for few rows too."""

from math import sqrt
from statistics import NormalDist

from raystill.metrics.bootstrap import CONFIDENCE, Interval


def wilson(share: float, n: int, confidence: float = CONFIDENCE) -> Interval:
    """The interval of a share of n; from 0 to 1 for none. Halves that stand for ties make it wider than need be."""
    if n == 0:
        return Interval(0.0, 1.0)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Interval(max(0.0, middle - half), min(1.0, middle + half))

"""recall_at_rate: share of what must be flagged that is, when at most a given share of the rest is flagged too, 0-1.

The threshold is the best of those that keep to the rate, found anew in every resample; nothing is interpolated between
thresholds. So answers that only say yes or no have the recall they have, or 0 when they flag too much.
"""

from collections.abc import Sequence

import numpy as np

from raystill.metrics import Floats, Sums, over


def recall_at_rate(sure: Sequence[float], flagged: Sequence[bool], rate: float) -> Sums:
    """`sure` is how sure an answer is, `flagged` whether its text must be. Statistics per row and threshold (each
    distinct value of `sure` that flags anything): flagged rightly, flagged wrongly; then must be flagged, must not."""
    values_R, wanted_R = np.asarray(sure, np.float64), np.asarray(flagged, bool)
    thresholds_T = np.unique(values_R[values_R > 0])
    flagged_RT = values_R[:, None] >= thresholds_T
    rows_RS = np.concatenate(
        [flagged_RT & wanted_R[:, None], flagged_RT & ~wanted_R[:, None], wanted_R[:, None], ~wanted_R[:, None]], axis=1
    ).astype(np.float64)

    def value(sums: Floats) -> Floats:
        rightly, wrongly = np.split(sums[..., :-2], 2, axis=-1)
        must, must_not = sums[..., -2], sums[..., -1]
        allowed = wrongly <= rate * must_not[..., None]
        best = (rightly * allowed).max(axis=-1, initial=0.0)
        return over(best, must)

    return Sums(rows_RS, value)

"""Pure functions from answers to numbers. A metric is a `Sums`: statistics per row, and a value of their sums.

That one shape serves means (accuracy), ratios (retention), differences and corpus metrics (BLEU, macro-F1) alike: a
bootstrap resample of rows is a weighting of the same statistics, so `bootstrap.interval` works for all of them.

    TEXT     metric name to a function (answers, references) -> Sums over whole texts
    LABELS   the same over what the task parsed out of them

B = resamples, R = rows, S = statistics per row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
TextMetric = Callable[[Sequence[str], Sequence[str]], "Sums"]

TEXT = {
    "exact_match": "raystill.metrics.exact_match:exact_match",
    "bleu": "raystill.metrics.bleu:bleu",
    "rouge_l": "raystill.metrics.rouge:rouge_l",
}
LABELS = {"macro_f1": "raystill.metrics.macro_f1:macro_f1"}


@dataclass(frozen=True)
class Sums:
    """A metric over rows: `value` maps sums of `rows_RS`, shape [..., S], to the metric, shape [...]."""

    rows_RS: Floats
    value: Callable[[Floats], Floats]

    def point(self) -> float:
        """The metric over all rows."""
        return float(self.value(self.rows_RS.sum(axis=0)))


def mean(values_R: Sequence[float] | Floats) -> Sums:
    """The mean of one value per row."""
    values = np.asarray(values_R, np.float64)
    return Sums(np.stack([values, np.ones_like(values)], axis=1), lambda sums: np.asarray(sums[..., 0] / sums[..., 1]))


def difference(left_R: Sequence[float] | Floats, right_R: Sequence[float] | Floats) -> Sums:
    """Mean of left minus mean of right, paired by row."""
    return mean(np.asarray(left_R, np.float64) - np.asarray(right_R, np.float64))


def ratio(left_R: Sequence[float] | Floats, right_R: Sequence[float] | Floats) -> Sums:
    """Mean of left over mean of right, paired by row: student over teacher is retention. NaN where right sums to 0."""
    rows_RS = np.stack([np.asarray(left_R, np.float64), np.asarray(right_R, np.float64)], axis=1)

    def value(sums: Floats) -> Floats:
        left, right = sums[..., 0], sums[..., 1]
        quotient: Floats = np.divide(left, right, out=np.full(np.shape(left), np.nan), where=right != 0)
        return quotient

    return Sums(rows_RS, value)

"""Pure functions from answers to numbers. A metric is a `Sums`: statistics per row, and a value of their sums.

That one shape serves means (accuracy), ratios (retention), differences and corpus metrics (BLEU, macro-F1) alike: a
bootstrap resample of rows is a weighting of the same statistics, so `bootstrap.interval` works for all of them.

METRICS are those that a recipe may name: functions (answers, references) -> Sums over what answers and references say.

B = resamples, R = rows, S = statistics per row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

METRICS = {
    "exact_match": "raystill.metrics.exact_match:exact_match",
    "token_f1": "raystill.metrics.token_f1:token_f1",
    "macro_f1": "raystill.metrics.macro_f1:macro_f1",
    "bleu": "raystill.metrics.bleu:bleu",
    "chrf": "raystill.metrics.chrf:chrf",
    "rouge_1": "raystill.metrics.rouge:rouge_1",
    "rouge_2": "raystill.metrics.rouge:rouge_2",
    "rouge_l": "raystill.metrics.rouge:rouge_l",
}


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


def difference(left: Sums, right: Sums) -> Sums:
    """Left minus right, paired by row."""
    return _paired(left, right, lambda a, b: a - b)


def ratio(left: Sums, right: Sums) -> Sums:
    """Left over right, paired by row: student over teacher is retention. NaN where right is 0."""
    return _paired(left, right, over)


def over(left: Floats, right: Floats) -> Floats:
    """Left over right; NaN where right is 0."""
    quotient: Floats = np.divide(left, right, out=np.full(np.shape(left), np.nan), where=right != 0)
    return quotient


def _paired(left: Sums, right: Sums, of: Callable[[Floats, Floats], Floats]) -> Sums:
    """A function of two metrics over the same rows, of which every resample draws the same ones."""
    width = left.rows_RS.shape[1]
    return Sums(
        np.concatenate([left.rows_RS, right.rows_RS], axis=1),
        lambda sums: np.asarray(of(left.value(sums[..., :width]), right.value(sums[..., width:]))),
    )

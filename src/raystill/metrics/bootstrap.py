"""Percentile bootstrap intervals (Efron, "Bootstrap Methods: Another Look at the Jackknife", Ann. Statist. 1979).

Rows are drawn with replacement. Where two models are compared, their statistics stand in one row, so both see the same
draw: the paired bootstrap (Koehn, "Statistical Significance Tests for Machine Translation Evaluation", EMNLP 2004).

The interval speaks for the drawing of rows alone, not for training again with another seed. When every row has the same
value it has no width, however few rows there are.
"""

from typing import NamedTuple

import numpy as np

from raystill.metrics import Floats, Sums

CONFIDENCE = 0.95
CHUNK_CELLS = 1 << 24
"""Resamples x rows that are held in memory at once: 128 MiB of weights."""


class Interval(NamedTuple):
    """Lower and upper bound."""

    low: float
    high: float


def interval(metric: Sums, resamples: int, seed: int = 0, confidence: float = CONFIDENCE) -> Interval | None:
    """The percentile interval of a metric; None when a resample has no value (a ratio to 0) or there are no rows."""
    rows = len(metric.rows_RS)
    if rows == 0:
        return None
    rng = np.random.default_rng(seed)
    chunk = max(1, CHUNK_CELLS // rows)
    sizes = [min(chunk, resamples - start) for start in range(0, resamples, chunk)]
    values_B = np.concatenate([metric.value(_weights(rng, size, rows) @ metric.rows_RS) for size in sizes])
    if not np.isfinite(values_B).all():
        return None
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(values_B, [tail, 100 - tail])
    return Interval(float(low), float(high))


def _weights(rng: np.random.Generator, resamples: int, rows: int) -> Floats:
    """How often each row is drawn in each resample, [B, R]; each resample's weights sum to R."""
    drawn_BR = rng.integers(rows, size=(resamples, rows)) + rows * np.arange(resamples)[:, None]
    return np.bincount(drawn_BR.ravel(), minlength=resamples * rows).reshape(resamples, rows).astype(np.float64)

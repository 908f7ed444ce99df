"""kappa: agreement of two raters beyond what chance would give, -1 to 1 (Cohen, "A Coefficient of Agreement for Nominal
Scales", Educational and Psychological Measurement 20, 1960).

    kappa = (observed - expected) / (1 - expected)

observed is the share of rows on which both say the same; expected is what it would be if each kept its own shares of labels
and threw them at random.
"""

from collections.abc import Sequence

import numpy as np

from raystill.metrics import Floats, Sums, over


def kappa(left: Sequence[str], right: Sequence[str]) -> Sums:
    """Statistics per row: the cell of the table of both raters' labels. No value where both only ever say one thing."""
    labels = {label: i for i, label in enumerate(sorted({*left, *right}))}
    size = len(labels)
    cells = [labels[a] * size + labels[b] for a, b in zip(left, right, strict=True)]
    rows_RS = np.eye(size * size)[cells] if cells else np.zeros((0, 1))

    def value(sums: Floats) -> Floats:
        table = sums.reshape(*sums.shape[:-1], size, size)
        rows = table.sum(axis=(-2, -1))
        agreed = np.trace(table, axis1=-2, axis2=-1)
        by_chance = (table.sum(axis=-1) * table.sum(axis=-2)).sum(axis=-1)
        return over(rows * agreed - by_chance, rows**2 - by_chance)  # whole numbers: exact

    return Sums(rows_RS, value)

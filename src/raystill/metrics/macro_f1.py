"""macro_f1: F1 of each label, averaged over the labels that the references hold, each with equal weight, 0-1."""

from collections.abc import Sequence

import numpy as np

from raystill.metrics import Floats, Sums


def macro_f1(answers: Sequence[str], references: Sequence[str]) -> Sums:
    """Statistics per row and label of the references: right, answered, wanted. In a resample without any row of a
    label, that label does not count."""
    labels = sorted(set(references))
    answered_RL = np.asarray(answers, object)[:, None] == np.asarray(labels, object)
    wanted_RL = np.asarray(references, object)[:, None] == np.asarray(labels, object)
    rows_RS = np.concatenate([answered_RL & wanted_RL, answered_RL, wanted_RL], axis=1).astype(np.float64)

    def value(sums: Floats) -> Floats:
        right, answered, wanted = np.split(sums, 3, axis=-1)
        f1 = 2 * right / np.maximum(answered + wanted, 1)
        present = wanted > 0
        return np.asarray((f1 * present).sum(axis=-1) / present.sum(axis=-1))

    return Sums(rows_RS, value)

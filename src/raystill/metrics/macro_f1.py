"""macro_f1: F1 of each label, averaged over the labels that the references hold, each with equal weight, 0-1."""

from collections.abc import Sequence

import numpy as np

from raystill.metrics import Floats, Sums, over

MOST_LABELS = 20
"""Labels of which each one's F1 is told: more lines would not be read."""


def f1(answers: Sequence[str], references: Sequence[str]) -> dict[str, Sums]:
    """macro_f1, and where the references hold at most MOST_LABELS labels, `f1:LABEL` of each."""
    labels = sorted(set(references))
    each = labels if len(labels) <= MOST_LABELS else []
    return {
        "macro_f1": macro_f1(answers, references),
        **{f"f1:{label}": _f1([label], answers, references) for label in each},
    }


def macro_f1(answers: Sequence[str], references: Sequence[str]) -> Sums:
    """F1 averaged over the labels of the references."""
    return _f1(sorted(set(references)), answers, references)


def _f1(labels: Sequence[str], answers: Sequence[str], references: Sequence[str]) -> Sums:
    """Statistics per row and label: right, answered, wanted. In a resample without any row of a label, that label does
    not count; one that has no row of any has no value."""
    answered_RL = np.asarray(answers, object)[:, None] == np.asarray(labels, object)
    wanted_RL = np.asarray(references, object)[:, None] == np.asarray(labels, object)
    rows_RS = np.concatenate([answered_RL & wanted_RL, answered_RL, wanted_RL], axis=1).astype(np.float64)

    def value(sums: Floats) -> Floats:
        right, answered, wanted = np.split(sums, 3, axis=-1)
        f1 = 2 * right / np.maximum(answered + wanted, 1)
        present = wanted > 0
        return over((f1 * present).sum(axis=-1), present.sum(axis=-1))

    return Sums(rows_RS, value)

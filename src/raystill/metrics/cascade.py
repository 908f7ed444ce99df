"""From which probability on a student's answers are kept, so that it and the teacher behind it reach a wanted accuracy.

A cascade by confidence (Viola and Jones, CVPR 2001; for language models Chen et al., "FrugalGPT", arXiv 2305.05176). The
threshold is chosen on the rows that it is measured on, so its accuracy there is a little better than elsewhere: hold it
against test rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raystill.metrics import Sums, mean


@dataclass(frozen=True)
class Case:
    """One row: the student's mean token probability, whether its answer passes the task's check, and whose answer is right,
    0 to 1."""

    probability: float
    passes: bool
    student: float
    teacher: float


@dataclass(frozen=True)
class Cut:
    """Answers below this probability go to the teacher: the share of rows that are sent, and the accuracy of all."""

    below: float
    sent: float
    accuracy: Sums


def cuts(cases: Sequence[Case]) -> list[Cut]:
    """Every cut that keeps some answer and is different on these rows, halfway between two of them, from the teacher asked
    least to asked most. Answers that fail the check are sent by each."""
    probability, passes, student, teacher = np.array(
        [(c.probability, c.passes, c.student, c.teacher) for c in cases], dtype=np.float64
    ).T
    values = np.unique(probability)
    found = []
    for below in [0.0, *(values[1:] + values[:-1]) / 2]:
        sent = (probability < below) | (passes == 0)
        found.append(Cut(float(below), float(sent.mean()), mean(np.where(sent, teacher, student))))
    return found


def least(found: Sequence[Cut], wanted: float) -> Cut | None:
    """The cut that asks the teacher least and is as accurate as wanted; None where none is."""
    return next((cut for cut in found if cut.accuracy.point() >= wanted), None)

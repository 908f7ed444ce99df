"""chrf: corpus chrF2, 0-100, by sacrebleu with its defaults (Popović, "chrF: character n-gram F-score", WMT 2015).

It is a function of n-gram counts summed over rows, as BLEU is. sacrebleu keeps both halves to itself, so its underscored
names are used, and a test holds the result to its public one.
"""

from collections.abc import Sequence

import numpy as np

from raystill.metrics import Floats, Sums


def chrf(answers: Sequence[str], references: Sequence[str]) -> Sums:
    """Statistics per row: for each of six lengths of n-gram those of the answer, of the reference and of both."""
    from sacrebleu.metrics import CHRF

    scorer = CHRF()
    rows = scorer._extract_corpus_statistics(list(answers), [list(references)]) if answers else []

    def one(sums_S: Floats) -> float:
        return float(scorer._compute_f_score([int(x) for x in sums_S]))

    return Sums(
        np.asarray(rows, np.float64).reshape(-1, 3 * scorer.order), lambda sums: np.apply_along_axis(one, -1, sums)
    )

"""bleu: corpus BLEU, 0-100, by sacrebleu with its defaults (Post, "A Call for Clarity in Reporting BLEU Scores", 2018).

Corpus BLEU is a function of n-gram counts summed over rows, so sacrebleu's own counts per row are kept and its own
formula is applied to their sums.
"""

from collections.abc import Sequence

import numpy as np

from raystill.metrics import Floats, Sums

ORDER = 4


def bleu(answers: Sequence[str], references: Sequence[str]) -> Sums:
    """Statistics per row: correct n-grams[4], total n-grams[4], lengths of answer and reference in its tokens."""
    from sacrebleu.metrics import BLEU

    scorer = BLEU()
    scores = [scorer.corpus_score([a], [[r]]) for a, r in zip(answers, references, strict=True)]
    rows = [[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in scores]

    def one(sums_S: Floats) -> float:
        counts = [int(x) for x in sums_S]
        score = BLEU.compute_bleu(
            correct=counts[:ORDER],
            total=counts[ORDER : 2 * ORDER],
            sys_len=counts[-2],
            ref_len=counts[-1],
            smooth_method=scorer.smooth_method,
            smooth_value=scorer.smooth_value,
            effective_order=scorer.effective_order,
            max_ngram_order=ORDER,
        )
        return float(score.score)

    return Sums(
        np.asarray(rows, np.float64).reshape(-1, 2 * ORDER + 2), lambda sums: np.apply_along_axis(one, -1, sums)
    )

r"""rouge_1, rouge_2, rouge_l: mean ROUGE F-measures (Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004), 0-1.

Words are runs of letters and digits, lower-cased, of any script; on ASCII text the values are those of Google's
rouge-score without stemming, which knows no other letters. The longest common subsequence is counted bit-parallel
(Hyyrö, "Bit-parallel LCS-length computation revisited", 2004): rouge-score's table takes 40 ms for two answers of 512
words, and a report is always made anew.
"""

import collections
import itertools
import re
from collections.abc import Sequence

from raystill.metrics import Sums, mean


def rouge_l(answers: Sequence[str], references: Sequence[str]) -> Sums:
    """One F-measure per row."""
    return mean([f_measure(_words(a), _words(r)) for a, r in zip(answers, references, strict=True)])


def rouge_1(answers: Sequence[str], references: Sequence[str]) -> Sums:
    """One F-measure per row, of the words that both have."""
    return mean([_shared(_words(a), _words(r)) for a, r in zip(answers, references, strict=True)])


def rouge_2(answers: Sequence[str], references: Sequence[str]) -> Sums:
    """One F-measure per row, of the pairs of neighbouring words that both have."""
    pairs = zip(answers, references, strict=True)
    return mean([_shared(*(list(itertools.pairwise(_words(text))) for text in pair)) for pair in pairs])


def f_measure(answer: Sequence[str], reference: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of the longest common subsequence; 0 when either is empty."""
    if not answer or not reference:
        return 0.0
    return 2 * common_subsequence(answer, reference) / (len(answer) + len(reference))


def common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    """Length of the longest common subsequence, in O(len(right)) operations on integers of len(left) bits."""
    places: dict[str, int] = {}
    for i, word in enumerate(left):
        places[word] = places.get(word, 0) | 1 << i
    all_bits = (1 << len(left)) - 1
    row = all_bits
    for word in right:
        matched = row & places.get(word, 0)
        row = (row + matched | row - matched) & all_bits
    return len(left) - row.bit_count()


def _shared(answer: Sequence[object], reference: Sequence[object]) -> float:
    """Harmonic mean of the shares of each one's items that the other has; 0 when either is empty."""
    shared = (collections.Counter(answer) & collections.Counter(reference)).total()
    return 2 * shared / (len(answer) + len(reference)) if shared else 0.0


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())

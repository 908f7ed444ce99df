"""token_f1: mean overlap in words, 0-1, as SQuAD measures it (Rajpurkar et al., arXiv 1606.05250).

Case, ASCII punctuation and English articles do not count. A word counts as often as it stands in both texts.
"""

import collections
import re
import string
from collections.abc import Sequence

from raystill.metrics import Sums, mean

PUNCTUATION = str.maketrans("", "", string.punctuation)


def token_f1(answers: Sequence[str], references: Sequence[str]) -> Sums:
    """One F-measure per row."""
    return mean([overlap(normal(a), normal(r)) for a, r in zip(answers, references, strict=True)])


def normal(text: str) -> list[str]:
    """The words that count."""
    return re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(PUNCTUATION)).split()


def overlap(answer: Sequence[str], reference: Sequence[str]) -> float:
    """Harmonic mean of the shares of each one's words that the other has; 1 when both are empty, 0 when one is."""
    if not answer or not reference:
        return float(answer == reference)
    shared = (collections.Counter(answer) & collections.Counter(reference)).total()
    return 2 * shared / (len(answer) + len(reference))

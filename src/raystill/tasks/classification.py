"""classification: the answer is one of the labels, which are the references seen in train and validation."""

import collections
import re
import unicodedata
from collections.abc import Collection
from typing import ClassVar

from raystill.records import Prompt

NEGATIONS = {"not", "no", "never", "neither", "nor", "isnt", "cannot"}
"""An answer with one of these besides its label may well deny it, so it names none."""


class Classification:
    """Reads labels out of answers.

    An answer is read as a label when it is one to the letter, else when it is one after case, punctuation and
    whitespace are taken away, else when exactly one label stands in it as whole words. A label inside a longer one
    ("card" in "card arrival") does not count, and neither does a negated answer.
    """

    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "exact_match", "macro_f1")

    def __init__(self, references: Collection[str]) -> None:
        self.labels = frozenset(references)
        named = collections.defaultdict(list)
        for label in sorted(self.labels):
            named[_plain(label)].append(label)
        self._by_plain = {plain: labels[0] for plain, labels in named.items() if plain and len(labels) == 1}
        longest_first = sorted(self._by_plain, key=lambda plain: (-len(plain), plain))
        either = "|".join(map(re.escape, longest_first))
        # A lookahead finds overlapping labels too, so that ambiguity is seen.
        self._within = re.compile(rf"(?<!\w)(?=({either})(?!\w))") if either else None

    def parse(self, text: str) -> str | None:
        """The one label that the answer names, or None."""
        if text in self.labels or text.strip() in self.labels:
            return text if text in self.labels else text.strip()
        plain = _plain(text)
        return self._by_plain.get(plain) or self._inside(plain)

    def check(self, prompt: Prompt, text: str) -> str | None:
        """Answers that name no label, or more than one, are not kept. Without references anything may be a label."""
        return "names no single label" if self.labels and self.parse(text) is None else None

    def score(self, prompt: Prompt, text: str) -> dict[str, float]:
        """accuracy: 1 when the answer names the row's reference."""
        if prompt.reference is None:
            return {}
        # A label that only held-out rows have cannot be parsed, but can still be given to the letter.
        right = self.parse(text) == prompt.reference or text.strip() == prompt.reference.strip()
        return {"accuracy": float(right)}

    def _inside(self, plain: str) -> str | None:
        spans = [m.span(1) for m in self._within.finditer(plain)] if self._within else []
        widest = [s for s in spans if not any(o[0] <= s[0] and s[1] <= o[1] and o != s for o in spans)]
        found = {plain[start:end] for start, end in widest}
        if len(found) != 1:
            return None
        (label,) = found
        return None if NEGATIONS & set(plain.replace(label, " ").split()) else self._by_plain[label]


def _plain(text: str) -> str:
    """Case, punctuation and whitespace taken away: 'Card_Arrival.' and 'card arrival' become equal."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("'", "").replace("\u2019", "")
    return " ".join(re.sub(r"[\W_]+", " ", text).split())

"""qa: short answers to questions, from a given text or from what a model knows.

A row may have several right answers: a column `answers` of the data, a list of texts or SQuAD's {"text": [...]}, counts
beside the reference. Answers are compared as SQuAD's own script does (Rajpurkar et al., arXiv 1606.05250): case,
punctuation and articles aside; accuracy is equality with one of them, token_f1 the overlap in words with the nearest.
"""

import json
from collections.abc import Collection, Sequence
from typing import ClassVar

from raystill import reading, recipe
from raystill.metrics import Sums
from raystill.metrics.exact_match import exact_match
from raystill.metrics.token_f1 import normal, overlap
from raystill.records import Prompt
from raystill.tasks import ALONE


class Qa:
    """Compares short texts."""

    form: ClassVar[str] = ALONE

    def __init__(self, references: Collection[str], task: recipe.Task) -> None:
        """Any text may be an answer, so the references are not needed."""

    @staticmethod
    def asks(task: recipe.Task) -> str:
        """What models are told to do."""
        return "Answer the question in as few words as it takes. Where a text is given, answer from it."

    def parse(self, text: str) -> str | None:
        """The answer's words as they are compared; None when there are none."""
        return " ".join(normal(reading.answer(text))) or None

    def wanted(self, reference: str) -> str | None:
        """The same of the reference."""
        return self.parse(reference)

    def check(self, prompt: Prompt, text: str) -> str | None:
        """An answer without words is not kept."""
        return "no answer" if self.parse(text) is None else None

    def score(self, prompt: Prompt, text: str) -> dict[str, float]:
        """accuracy, and token_f1 with the nearest right answer."""
        right = [normal(reading.answer(r)) for r in _right(prompt)]
        if not right:
            return {}
        said = normal(reading.answer(text))
        return {"accuracy": float(said in right), "token_f1": max(overlap(said, r) for r in right)}

    def measure(self, texts: Sequence[str], references: Sequence[str]) -> dict[str, Sums]:
        """exact_match: equality with the reference to the letter."""
        return {"exact_match": exact_match([reading.answer(t) for t in texts], [reading.answer(r) for r in references])}


def _right(prompt: Prompt) -> list[str]:
    """Every right answer of a row."""
    more = json.loads(prompt.columns).get("answers") if '"answers"' in prompt.columns else None
    texts = more.get("text") if isinstance(more, dict) else more
    listed = [text for text in texts if isinstance(text, str)] if isinstance(texts, list) else []
    return list(dict.fromkeys([*([prompt.reference] if prompt.reference else []), *listed]))

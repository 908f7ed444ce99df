"""summarization: short texts that say what a long one says, compared by the words and word pairs they share.

There is no right summary, so there is no accuracy: ROUGE-L against the reference decides what a student keeps.
"""

from collections.abc import Collection, Sequence
from typing import ClassVar

from raystill import reading, recipe
from raystill.metrics import Sums
from raystill.metrics.rouge import rouge_1, rouge_2, rouge_l
from raystill.records import Prompt
from raystill.tasks import ALONE

OVER = 1.2
"""Share of `max_len_summary` that a summary may have: models count words badly."""


class Summarization:
    """Compares summaries with their references."""

    form: ClassVar[str] = ALONE

    def __init__(self, references: Collection[str], task: recipe.Task) -> None:
        self.most = int(OVER * task.max_len_summary)

    @staticmethod
    def asks(task: recipe.Task) -> str:
        """What models are told to do."""
        return f"Summarize the text in at most {task.max_len_summary} words."

    def parse(self, text: str) -> str | None:
        """The summary, whitespace normalised; None when there is none."""
        return reading.words(reading.answer(text)) or None

    def wanted(self, reference: str) -> str | None:
        """The same of the reference."""
        return reading.words(reference) or None

    def check(self, prompt: Prompt, text: str) -> str | None:
        """A summary that is missing or too long is not kept."""
        words = (self.parse(text) or "").split()
        if not words:
            return "no summary"
        return "longer than max_len_summary" if len(words) > self.most else None

    def score(self, prompt: Prompt, text: str) -> dict[str, float]:
        """Nothing is right or wrong here."""
        return {}

    def measure(self, texts: Sequence[str], references: Sequence[str]) -> dict[str, Sums]:
        """ROUGE."""
        said = [self.parse(t) or "" for t in texts]
        return {
            "rouge_l": rouge_l(said, references),
            "rouge_1": rouge_1(said, references),
            "rouge_2": rouge_2(said, references),
        }

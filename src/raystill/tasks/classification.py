"""classification: the answer is one of the labels, which are the references seen in train and validation."""

from collections.abc import Collection, Sequence

from raystill import recipe
from raystill.metrics import Sums
from raystill.metrics.exact_match import exact_match
from raystill.metrics.macro_f1 import f1
from raystill.reading import Labels
from raystill.records import Prompt


class Classification:
    """Reads labels out of answers as `reading.Labels` does."""

    def __init__(self, references: Collection[str], task: recipe.Task) -> None:
        self.labels = Labels(references)

    def parse(self, text: str) -> str | None:
        """The one label that the answer names, or None."""
        return self.labels.read(text)

    def wanted(self, reference: str) -> str | None:
        """The reference to the letter: it is a label, whatever others stand in it."""
        return reference

    def check(self, prompt: Prompt, text: str) -> str | None:
        """Answers that name no label, or more than one, are not kept. Without references anything may be a label."""
        return "names no single label" if self.labels.labels and self.parse(text) is None else None

    def score(self, prompt: Prompt, text: str) -> dict[str, float]:
        """accuracy: 1 when the answer names the row's reference."""
        if prompt.reference is None:
            return {}
        # A label that only held-out rows have cannot be parsed, but can still be given to the letter.
        right = self.parse(text) == prompt.reference or text.strip() == prompt.reference.strip()
        return {"accuracy": float(right)}

    def measure(self, texts: Sequence[str], references: Sequence[str]) -> dict[str, Sums]:
        """exact_match, and F1 over the labels."""
        return {
            "exact_match": exact_match(texts, references),
            **f1([self.parse(t) or "" for t in texts], references),
        }

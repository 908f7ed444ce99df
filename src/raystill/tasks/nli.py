"""nli: natural-language inference. What a premise says about a hypothesis is one of three labels, or `task.labels`.

References are labels by name, or by number as hub datasets keep them (0 is the first); others, such as the -1 of a row
on which people did not agree, count as none.
"""

from collections.abc import Collection, Sequence
from typing import ClassVar

from raystill import reading, recipe
from raystill.metrics import Sums
from raystill.metrics.macro_f1 import f1
from raystill.records import Prompt
from raystill.tasks import ALONE

LABELS = ["entailment", "neutral", "contradiction"]


class Nli:
    """Reads one of the labels."""

    form: ClassVar[str] = ALONE

    def __init__(self, references: Collection[str], task: recipe.Task) -> None:
        self.names = task.labels or LABELS
        self.labels = reading.Labels(self.names)
        self.takes = f"{', '.join(self.names)} or their numbers from 0; for others: task: {{kind: nli, labels: […]}}"

    @staticmethod
    def asks(task: recipe.Task) -> str:
        """What models are told to do."""
        if task.labels:
            return f"Which of these does the premise say about the hypothesis: {', '.join(task.labels)}?"
        return (
            "What does the premise say about the hypothesis: entailment (it must be true), contradiction (it cannot be "
            "true) or neutral (it may be either)?"
        )

    def parse(self, text: str) -> str | None:
        """The one label that the answer names, or None."""
        return self.labels.read(reading.answer(text))

    def wanted(self, reference: str) -> str | None:
        """The label, by name or number."""
        return reading.reference_label(self.names, reference)

    def check(self, prompt: Prompt, text: str) -> str | None:
        """Answers that name no label, or more than one, are not kept."""
        return "names no single label" if self.parse(text) is None else None

    def score(self, prompt: Prompt, text: str) -> dict[str, float]:
        """accuracy: 1 when the answer names the reference's label."""
        wanted = self.wanted(prompt.reference or "")
        return {} if wanted is None else {"accuracy": float(self.parse(text) == wanted)}

    def measure(self, texts: Sequence[str], references: Sequence[str]) -> dict[str, Sums]:
        """F1 over the labels."""
        rows = [(self.parse(t) or "", w) for t, r in zip(texts, references, strict=True) if (w := self.wanted(r))]
        return f1([said for said, _ in rows], [wanted for _, wanted in rows])

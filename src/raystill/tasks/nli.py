"""nli: natural-language inference. What a premise says about a hypothesis is one of three labels, or `task.labels`.

References are labels by name, or by number as hub datasets keep them (0 is the first); others, such as the -1 of a row
on which people did not agree, count as none.
"""

from collections.abc import Collection, Sequence
from typing import ClassVar

from raystill import recipe
from raystill.metrics import Sums
from raystill.metrics.macro_f1 import f1
from raystill.tasks import ALONE, Labelled

LABELS = ["entailment", "neutral", "contradiction"]


class Nli(Labelled):
    """Reads one of the labels."""

    form: ClassVar[str] = ALONE

    def __init__(self, references: Collection[str], task: recipe.Task) -> None:
        super().__init__(task, LABELS)

    @staticmethod
    def asks(task: recipe.Task) -> str:
        """What models are told to do."""
        if task.labels:
            return f"Which of these does the premise say about the hypothesis: {', '.join(task.labels)}?"
        return (
            "What does the premise say about the hypothesis: entailment (it must be true), contradiction (it cannot be "
            "true) or neutral (it may be either)?"
        )

    def measure(self, texts: Sequence[str], references: Sequence[str]) -> dict[str, Sums]:
        """F1 over the labels."""
        rows = [(self.parse(t) or "", w) for t, r in zip(texts, references, strict=True) if (w := self.wanted(r))]
        return f1([said for said, _ in rows], [wanted for _, wanted in rows])

"""What a right answer is. A task is a class of one file here, or the user's own as `module:attr`.

It is made with the references of the train and validation rows (empty when the data has none) and judges one answer at
a time. It asks no model and knows no file; hints about one row come from the data's own columns (`prompt.columns`).
"""

from collections.abc import Collection
from typing import ClassVar, Protocol

from raystill.records import Prompt

KINDS = {
    "classification": "raystill.tasks.classification:Classification",
    "conversation": "raystill.tasks.conversation:Conversation",
}


class Task(Protocol):
    """What curate and the report ask of a task."""

    metrics: ClassVar[tuple[str, ...]]
    """Metrics of the report, the deciding one first: "accuracy", and names of `metrics.TEXT` and `metrics.LABELS`."""

    def __init__(self, references: Collection[str]) -> None: ...

    def parse(self, text: str) -> str | None:
        """What the answer says: a label, or the text, whitespace normalised; None when it is nothing the task knows.

        Two models agree on a row when this is equal.
        """

    def check(self, prompt: Prompt, text: str) -> str | None:
        """Why nobody should learn from this answer, in words that hold no content; None when it may be kept."""

    def score(self, prompt: Prompt, text: str) -> dict[str, float]:
        """The task's own values for this answer, "accuracy" as 0 or 1; empty when the row cannot tell.

        Which keys there are depends on the prompt alone, never on the answer.
        """

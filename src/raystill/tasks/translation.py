"""translation: the text in another language, compared with a reference by characters (chrF, which decides) and words (BLEU).

There is no one right translation, so there is no accuracy.
"""

from collections.abc import Collection, Sequence
from typing import ClassVar

from raystill import reading, recipe
from raystill.metrics import Sums
from raystill.metrics.bleu import bleu
from raystill.metrics.chrf import chrf
from raystill.records import Prompt
from raystill.tasks import ALONE

COPIED_WORDS = 4
"""Names and numbers are the same in many languages; a longer text that stays as it was is not translated."""


class Translation:
    """Compares translations with their references."""

    form: ClassVar[str] = ALONE

    def __init__(self, references: Collection[str], task: recipe.Task) -> None:
        """Any text may be a translation, so the references are not needed."""

    @staticmethod
    def asks(task: recipe.Task) -> str | None:
        """What models are told to do; nothing where the recipe names no language."""
        return f"Translate the text into {task.language}." if task.language else None

    def parse(self, text: str) -> str | None:
        """The translation, whitespace normalised; None when there is none."""
        return reading.words(text) or None

    def wanted(self, reference: str) -> str | None:
        """The same of the reference."""
        return self.parse(reference)

    def check(self, prompt: Prompt, text: str) -> str | None:
        """A translation that is missing, or is the text itself, is not kept."""
        said = self.parse(text)
        if said is None:
            return "no translation"
        asked = [reading.words(m.content) for m in prompt.messages if m.role == "user"]
        copied = bool(asked) and said == asked[-1] and len(said.split()) >= COPIED_WORDS
        return "not translated" if copied else None

    def score(self, prompt: Prompt, text: str) -> dict[str, float]:
        """Nothing is right or wrong here."""
        return {}

    def measure(self, texts: Sequence[str], references: Sequence[str]) -> dict[str, Sums]:
        """chrF and BLEU."""
        return {"chrf": chrf(texts, references), "bleu": bleu(texts, references)}

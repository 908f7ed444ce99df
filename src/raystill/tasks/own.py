"""own: a task of the user's own, in YAML alone. `task.parse` says how an answer is read, `task.metrics` how it is measured.

A reference is read as an answer is. One that is not in the form of a regex, or no JSON, is itself what an answer should say.
"""

from collections.abc import Collection, Sequence
from typing import ClassVar

import regex

from raystill import metrics, plugins, reading, recipe
from raystill.errors import RecipeError
from raystill.metrics import Sums
from raystill.metrics.macro_f1 import f1
from raystill.records import Prompt
from raystill.tasks import reasons

PATTERN_TIMEOUT_S = 1.0


class Own:
    """Reads and measures as the recipe says."""

    form: ClassVar[str] = ""

    def __init__(self, references: Collection[str], task: recipe.Task) -> None:
        self.task = task
        self.how = task.parse
        self.labels = reading.Labels(self.how.choices) if self.how and self.how.choices else None
        self.takes = "one of task.parse.choices" if self.labels else "a value, or JSON with one at task.parse.json_path"
        self.pattern = _compiled(self.how.regex) if self.how and self.how.regex is not None else None

    def parse(self, text: str) -> str | None:
        """What the answer says by `task.parse`; None when it is not in that form."""
        return self._read(reading.answer(text) if reasons(self.task) else text)

    def wanted(self, reference: str) -> str | None:
        """What the reference says; None when it is no choice, or JSON that cannot be read."""
        found = self.parse(reference)
        broken = self.how and self.how.json_path is not None and reference.lstrip()[:1] in ("{", "[")
        return found if found or self.labels or broken else reading.words(reference)

    def check(self, prompt: Prompt, text: str) -> str | None:
        """An answer that is not in its form is not kept."""
        if self.parse(text) is not None:
            return None
        if self.labels:
            return "names no single choice"
        if self.pattern:
            return "does not match task.parse.regex"
        return "no JSON with a value at task.parse.json_path" if self.how else "no answer"

    def score(self, prompt: Prompt, text: str) -> dict[str, float]:
        """accuracy, where it is among `task.metrics`: 1 when the answer says what the reference says."""
        wanted = None if prompt.reference is None else self.wanted(prompt.reference)
        return {"accuracy": float(self.parse(text) == wanted)} if wanted and "accuracy" in self.task.metrics else {}

    def measure(self, texts: Sequence[str], references: Sequence[str]) -> dict[str, Sums]:
        """The other `task.metrics`, over what answers and references say; with macro_f1 each label's own F1."""
        rows = [(self.parse(t) or "", w) for t, r in zip(texts, references, strict=True) if (w := self.wanted(r))]
        said, wanted = [s for s, _ in rows], [w for _, w in rows]
        found: dict[str, Sums] = {}
        for name in self.task.metrics:
            if name == "macro_f1":
                found |= f1(said, wanted)
            elif name != "accuracy":
                found[name] = plugins.load(name, metrics.METRICS, "metric")(said, wanted)
        return found

    def _read(self, text: str) -> str | None:
        if self.labels:
            return self.labels.read(text)
        if self.pattern:
            return _last(self.pattern, text)
        if self.how and self.how.json_path is not None:
            try:
                return reading.at_path(reading.json_value(text), self.how.json_path) or None
            except ValueError:
                return None
        return reading.words(text) or None


def mistake(task: recipe.Task) -> None:
    """Raise RecipeError for a regex that does not compile or a metric that nobody knows."""
    if task.parse and task.parse.regex is not None:
        _compiled(task.parse.regex)
    for name in task.metrics:
        if name != "accuracy":
            plugins.find(name, metrics.METRICS, "metric")


def _compiled(pattern: str) -> "regex.Pattern[str]":
    try:
        return regex.compile(pattern)
    except regex.error as e:
        raise RecipeError(f"task.parse.regex is no valid regex: {e}; mend it, in single quotes: regex: '…'") from e


def _last(pattern: "regex.Pattern[str]", text: str) -> str | None:
    """What the last match says; None without one, or when the search takes too long."""
    try:
        found = list(pattern.finditer(text, timeout=PATTERN_TIMEOUT_S))
    except TimeoutError:
        return None
    said = (found[-1][1] if pattern.groups else found[-1][0]) if found else None
    return said.strip() or None if said else None

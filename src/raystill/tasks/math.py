r"""math: an answer that ends in a number or an expression, which decides; how it is worked out does not.

The final answer is what follows the last "Answer:" or "####", else the last \boxed{…}, else the whole of a text that is an
expression and no prose, else the last number. References are read the same way, so GSM8K's worked solutions are
references as they stand. Numbers are compared as exact fractions with a relative tolerance of a millionth, whatever
currency, per cent sign or unit stands beside them; all else as LaTeX, by `equality`.
"""

import re
from collections.abc import Collection, Sequence
from fractions import Fraction
from functools import cache
from typing import ClassVar

from raystill import equality, reading, recipe
from raystill.metrics import Sums
from raystill.records import Prompt
from raystill.tasks import STEPS

TOLERANCE = Fraction(1, 1_000_000)
BOXED = r"\boxed{"
DIGITS = r"\d{1,3}(?:,\d{3}){1,20}(?:\.\d{1,60})?|\d{1,60}(?:\.\d{1,60})?|\.\d{1,60}"
NUMBER = re.compile(rf"(?<![\w.,])-?(?:(?:\d{{1,30}} )?\d{{1,30}}/\d{{1,30}}|{DIGITS})(?!\w|[,./]\d)")
ALONE = re.compile(
    rf"(?P<minus>-?) ?(?:(?:(?P<whole>\d{{1,30}}) )?(?P<over>\d{{1,30}})/(?P<under>\d{{1,30}})|(?P<plain>{DIGITS}))"
    r"(?: [^\W\d_][^\d=^_\\+*/]*)?\.?"
)
"""A number, a fraction, or both as in 3 1/2, and a unit after a space: 2x is no number."""
PROSE = re.compile(r"[^\W\d_]{2,} +[^\W\d_]{2,}")
FORMAL = re.compile(r"[\d\\=^+]")
FRACTION = re.compile(r"\\[dt]?frac\{(-?\d{1,30})\}\{(\d{1,30})\}")
DRESS = re.compile(r"\\[,!;: ]|\\left|\\right|\\(?:mbox|text|textbf|mathrm)\{[^{}]*\}|[$€£%]|\\[$%]|\*\*")
"""What may stand around a number without changing it."""


class Math:
    """Reads final answers and compares their values."""

    form: ClassVar[str] = STEPS
    takes: ClassVar[str] = "a number, or a text that ends in one, in \\boxed{…} or in 'Answer: …'"

    def __init__(self, references: Collection[str], task: recipe.Task) -> None:
        """A value needs no set of others."""

    @staticmethod
    def asks(task: recipe.Task) -> str:
        """What models are told to do."""
        return "Solve the problem."

    def parse(self, text: str) -> str | None:
        """The final answer: a number as a fraction in lowest terms, else as it is written; None when there is none."""
        found = final(text)
        if not found:
            return None
        value = number(found)
        return found if value is None else str(value)

    def wanted(self, reference: str) -> str | None:
        """The final answer of a reference."""
        return self.parse(reference)

    def check(self, prompt: Prompt, text: str) -> str | None:
        """An answer that ends in nothing is not kept."""
        return "no final answer" if self.parse(text) is None else None

    def score(self, prompt: Prompt, text: str) -> dict[str, float]:
        """accuracy: 1 when the final answer equals the reference's."""
        wanted = self.wanted(prompt.reference or "")
        return {} if wanted is None else {"accuracy": float(equal(wanted, self.parse(text) or ""))}

    def measure(self, texts: Sequence[str], references: Sequence[str]) -> dict[str, Sums]:
        """Nothing beside the value of the answer counts."""
        return {}


def final(text: str) -> str | None:
    """Where the answer of a worked solution stands, as it is written there; None when there is none."""
    marked = reading.marked(text)
    if marked:
        return _last_boxed(marked) or marked.splitlines()[0].strip()
    if boxed := _last_boxed(text):
        return boxed
    whole = DRESS.sub("", text)
    if "\n" not in text.strip() and FORMAL.search(text) and not PROSE.search(whole):
        return text.strip()
    numbers = NUMBER.findall(whole)
    return numbers[-1] if numbers else None


def number(text: str) -> Fraction | None:
    """The value of a number alone: 1,234.5, $3, 20 %, 7/8, 3 1/2 or \\frac{7}{8}, with a unit or a name before '='."""
    if "<" in text or ">" in text:
        return None
    bare = FRACTION.sub(r" \1/\2", DRESS.sub("", text.rpartition("=")[2])).strip()
    found = ALONE.fullmatch(bare)
    if not found or (found["under"] and not int(found["under"])):
        return None
    if found["plain"]:
        value = Fraction(found["plain"].replace(",", ""))
    else:
        value = int(found["whole"] or 0) + Fraction(int(found["over"]), int(found["under"]))
    return -value if found["minus"] else value


def equal(wanted: str, said: str) -> bool:
    """Whether two final answers have the same value."""
    if wanted == said:
        return True
    left, right = number(wanted), number(said)
    if left is not None and right is not None:
        return abs(left - right) <= TOLERANCE * max(abs(left), abs(right))
    return bool(wanted and said) and _judge().equal(wanted, said)


@cache
def _judge() -> equality.Judge:
    return equality.Judge()


def _last_boxed(text: str) -> str | None:
    """What stands in the last box with balanced braces."""
    start = text.rfind(BOXED)
    if start < 0:
        return None
    depth, begin = 1, start + len(BOXED)
    for at in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[begin:at].strip()
    return None

r"""conversation: free text. What makes it right can be said row by row, in columns of the data beside the prompt:

    must_include       ["#705137", "wall clock"]    facts that must all be there, to the letter
    must_not_include   ["#192866"]                  facts that must not; one inside a required fact is no fault
    fact_patterns      ["#\\d+"]                    regexes of which every match in the answer must be a required fact
    style              "Hello! .*Your support desk" regex that the whole answer must match, outer whitespace aside

`must_include` (it may be empty) switches this on; without it the others are the data's own business, since "style" may
mean anything there. Then accuracy is 1 when all of it holds. Facts are matched whole: "482" is not found in "4821", nor
"rug" in "drug". Without `must_include`, accuracy is equality with the reference but for whitespace; without a
reference either, there is no accuracy. With `data: {turns: each}` every turn is a row, so accuracy is success by turn;
the report then adds the share of conversations in which every turn is right. `refusals` counts answers that open by
declining, in English.

Patterns come from data, so they are bounded: at most 500 characters, tried on answers of at most 8,000 (a longer one is
at fault), each for at most one second. `.` matches line ends too.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import regex

from raystill import reading, recipe
from raystill.errors import DataError
from raystill.metrics import Sums
from raystill.metrics.bleu import bleu
from raystill.metrics.exact_match import exact_match
from raystill.metrics.rouge import rouge_l
from raystill.records import Prompt

PATTERN_CHARS = 500
ANSWER_CHARS = 8000
PATTERN_TIMEOUT_S = 1.0
REFUSAL = regex.compile(
    r"\b(?:i|we)(?:'m| am| are)? (?:can'?t|can ?not|won'?t|will not|unable to|not able to|must decline to)(?: \w+)? "
    r"(?:help|assist|provide|answer|comply|do that|fulfil|create|write|discuss|continue|engage|generate)",
    regex.IGNORECASE,
)
OPENING_CHARS = 200
"""How far into an answer a refusal begins."""


@dataclass(frozen=True)
class Facts:
    """What one row asks of its answer."""

    must_include: tuple[str, ...]
    must_not_include: tuple[str, ...]
    fact_patterns: tuple[str, ...]
    style: str | None


class Conversation:
    """Judges answers by the row's facts, or by its reference."""

    def __init__(self, references: Collection[str], task: recipe.Task) -> None:
        """Free text has no label set, so the references are not needed."""

    def parse(self, text: str) -> str | None:
        """The text, whitespace normalised."""
        return reading.words(text)

    def wanted(self, reference: str) -> str | None:
        """The same of the reference."""
        return reading.words(reference)

    def check(self, prompt: Prompt, text: str) -> str | None:
        """The first fault by the row's facts. Raises DataError when the row's columns are not as this file says."""
        facts = facts_of(prompt)
        return fault(prompt, facts, text) if facts else None

    def score(self, prompt: Prompt, text: str) -> dict[str, float]:
        """refusals, and accuracy by the row's facts, else by its reference. Raises DataError as `check` does."""
        refusals = {"refusals": float(REFUSAL.search(text[:OPENING_CHARS].replace("\u2019", "'")) is not None)}
        facts = facts_of(prompt)
        if facts:
            return {"accuracy": float(fault(prompt, facts, text) is None), **refusals}
        if prompt.reference is None:
            return refusals
        return {"accuracy": float(self.parse(text) == self.parse(prompt.reference)), **refusals}

    def measure(self, texts: Sequence[str], references: Sequence[str]) -> dict[str, Sums]:
        """How near the words are to the reference's."""
        return {
            "exact_match": exact_match(texts, references),
            "bleu": bleu(texts, references),
            "rouge_l": rouge_l(texts, references),
        }


def facts_of(prompt: Prompt) -> Facts | None:
    """The row's facts; None when it has no `must_include`. Raises DataError when a column has another type."""
    columns = json.loads(prompt.columns) if "must_include" in prompt.columns else {}
    if columns.get("must_include") is None:
        return None
    lists = ("must_include", "must_not_include", "fact_patterns")
    texts = {name: _texts(prompt, name, columns.get(name)) for name in lists}
    style = columns.get("style")
    if style is not None and not isinstance(style, str):
        raise _wrong(prompt, "style", "is no text", "write one regex that the whole answer must match")
    return Facts(**texts, style=style)


def fault(prompt: Prompt, facts: Facts, text: str) -> str | None:
    """The first thing wrong with an answer, without content: a missing, forbidden or wrong fact, or the style."""
    required = [_spans(fact, text) for fact in facts.must_include]
    if not all(required):
        return "required fact missing"
    covered = [span for spans in required for span in spans]
    for fact in facts.must_not_include:
        for start, end in _spans(fact, text):
            if not any(a <= start and end <= b for a, b in covered):
                return "forbidden fact"
    if (facts.fact_patterns or facts.style) and len(text) > ANSWER_CHARS:
        return "too long to judge"
    for pattern in facts.fact_patterns:
        if any(found and found not in facts.must_include for found in _matches(prompt, "fact_patterns", pattern, text)):
            return "wrong fact"
    if facts.style is not None and not _fullmatch(prompt, facts.style, text):
        return "not in the style"
    return None


def _texts(prompt: Prompt, name: str, value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(v, str) and v for v in value):
        raise _wrong(prompt, name, "is no list of texts", f'write "{name}": ["…", "…"] without empty texts')
    return tuple(value)


def _spans(fact: str, text: str) -> list[tuple[int, int]]:
    """Where a fact stands whole: its outer digits are not followed by more digits, nor its letters by more letters."""
    found, start = [], text.find(fact)
    while start >= 0:
        end = start + len(fact)
        if not (_continues(text[start - 1 : start], fact[0]) or _continues(fact[-1], text[end : end + 1])):
            found.append((start, end))
        start = text.find(fact, start + 1)
    return found


def _continues(left: str, right: str) -> bool:
    """Whether two neighbouring characters belong to one number, or to one word in ASCII letters."""
    pair = left + right
    return len(pair) == 2 and (pair.isdecimal() or (pair.isascii() and pair.isalpha()))


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> "regex.Pattern[str]":
    return regex.compile(pattern, regex.DOTALL)


def _checked(prompt: Prompt, name: str, pattern: str) -> "regex.Pattern[str]":
    if len(pattern) > PATTERN_CHARS:
        raise _wrong(prompt, name, f"holds a pattern of {len(pattern)} characters", f"shorten it to {PATTERN_CHARS}")
    try:
        return _compiled(pattern)
    except regex.error as e:
        raise _wrong(prompt, name, f"holds no valid regex ({e})", "mend it; JSON writes a backslash twice") from e


def _matches(prompt: Prompt, name: str, pattern: str, text: str) -> Iterator[str]:
    compiled = _checked(prompt, name, pattern)
    try:
        for match in compiled.finditer(text, timeout=PATTERN_TIMEOUT_S):
            yield match.group()
    except TimeoutError as e:
        raise _too_slow(prompt, name) from e


def _fullmatch(prompt: Prompt, pattern: str, text: str) -> bool:
    compiled = _checked(prompt, "style", pattern)
    try:
        return compiled.fullmatch(text.strip(), timeout=PATTERN_TIMEOUT_S) is not None
    except TimeoutError as e:
        raise _too_slow(prompt, "style") from e


def _too_slow(prompt: Prompt, name: str) -> DataError:
    slow = f"holds a regex that ran for {PATTERN_TIMEOUT_S:g} s on one answer"
    return _wrong(prompt, name, slow, "avoid nested repeats such as (a+)+")


def _wrong(prompt: Prompt, name: str, what: str, fix: str) -> DataError:
    return DataError(f"row {prompt.id} ({prompt.source}): column '{name}' {what}, so no answer can be judged; {fix}")

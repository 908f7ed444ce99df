"""Reading answers: what follows the mark, one of some labels, a value in JSON.

Answers are untrusted text: nothing here evaluates them, and every search is linear in their length.
"""

import json
import re
import unicodedata
from collections.abc import Collection, Sequence
from typing import Any

MARK = re.compile(r"^[ \t*_>]*(?:(?:final )?answer(?: is)?[*_]*:[*_]*|####)", re.IGNORECASE | re.MULTILINE)
"""What stands before an answer that reasoning precedes: "Answer:" or, as in GSM8K, "####"."""
NEGATIONS = {"not", "no", "never", "neither", "nor", "isnt", "cannot"}
"""An answer with one of these besides its label may well deny it, so it names none."""


def marked(text: str) -> str | None:
    """What stands after the last mark; None without a mark."""
    ends = [match.end() for match in MARK.finditer(text)]
    return text[ends[-1] :].strip() if ends else None


def answer(text: str) -> str:
    """What stands after the last mark, else the whole text."""
    found = marked(text)
    return text.strip() if found is None else found


def words(text: str) -> str:
    """The text, whitespace normalised."""
    return " ".join(text.split())


class Labels:
    """Reads one of some labels out of a text.

    A text is read as a label when it is one to the letter, else when it is one after case, punctuation and whitespace
    are taken away, else when exactly one label stands in it as whole words. A label inside a longer one ("card" in
    "card arrival") does not count, and neither does a negated one.
    """

    def __init__(self, labels: Collection[str]) -> None:
        self.labels = frozenset(labels)
        named: dict[str, list[str]] = {}
        for label in sorted(self.labels):
            named.setdefault(_plain(label), []).append(label)
        self._by_plain = {plain: found[0] for plain, found in named.items() if plain and len(found) == 1}
        longest_first = sorted(self._by_plain, key=lambda plain: (-len(plain), plain))
        either = "|".join(map(re.escape, longest_first))
        # A lookahead finds overlapping labels too, so that ambiguity is seen.
        self._within = re.compile(rf"(?<!\w)(?=({either})(?!\w))") if either else None

    def read(self, text: str) -> str | None:
        """The one label that the text names, or None."""
        if text in self.labels or text.strip() in self.labels:
            return text if text in self.labels else text.strip()
        plain = _plain(text)
        return self._by_plain.get(plain) or self._inside(plain)

    def _inside(self, plain: str) -> str | None:
        spans = [m.span(1) for m in self._within.finditer(plain)] if self._within else []
        widest = [s for s in spans if not any(o[0] <= s[0] and s[1] <= o[1] and o != s for o in spans)]
        found = {plain[start:end] for start, end in widest}
        if len(found) != 1:
            return None
        (label,) = found
        return None if NEGATIONS & set(plain.replace(label, " ").split()) else self._by_plain[label]


def reference_label(labels: Sequence[str], reference: str) -> str | None:
    """The label of a reference, by name or by number from 0, as hub datasets keep them; None where it is neither."""
    named = Labels(labels).read(reference)
    number = reference.strip()
    if named is None and number.isdecimal() and len(number) < 4 and int(number) < len(labels):
        return labels[int(number)]
    return named


def json_value(text: str) -> Any:
    """The JSON that a text is, or that begins at its first brace or bracket. Raises ValueError when there is none."""
    starts = [at for at in (text.find("{"), text.find("[")) if at >= 0]
    try:
        return json.loads(text) if not starts else json.JSONDecoder().raw_decode(text, min(starts))[0]
    except RecursionError:
        raise ValueError("nested too deeply") from None


def at_path(value: Any, path: str) -> str | None:
    """What stands in JSON at a path of keys and indices, such as `result.labels.0`; None when nothing does."""
    for key in path.removeprefix("$.").split("."):
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdecimal() and len(key) < 9 and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return value.strip() if isinstance(value, str) else None if value is None else json.dumps(value, sort_keys=True)


def _plain(text: str) -> str:
    """Case, punctuation and whitespace taken away: 'Card_Arrival.' and 'card arrival' become equal."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("'", "").replace("\u2019", "")
    return " ".join(re.sub(r"[\W_]+", " ", text).split())

"""Taking out of texts what must not be kept: e-mail addresses, phone and card numbers, keys, and what the recipe names.

Patterns, no understanding: names and addresses of people stay unless a pattern of the recipe's own takes them out.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

SECRET = (
    r"-----BEGIN [A-Z ]{0,32}PRIVATE KEY-----(?:[^-]|-(?!----)){0,8192}-----END [A-Z ]{0,32}PRIVATE KEY-----",
    r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}",
    r"\b(?:sk|pk|rk)[-_][\w-]{16,}",
    r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    r"\b(?:gh[pousr]|github_pat|hf|glpat|gsk|xai|nvapi|xox[abeoprs])[-_][\w-]{16,}",
    r"\bAIza[\w-]{30,}",
    r"(?i:\bbearer\s{1,4}[\w.~+/=-]{16,})",
    r"(?i:(?<![a-z])(?:api[ _-]?key|secret|passw(?:or)?d|token)(?-i:\s{0,4}[:=]\s{0,4})[^\s,;]{6,128})",
)
"""Keys as vendors write them, bearer and web tokens, private keys, and what is called a key, secret, password or token."""
EMAIL = r"(?<![\w.%+-])[\w.%+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[A-Za-z]{2,24}\b"
CARD = r"(?<![\w.])\d(?:[ -]?\d){12,18}(?!\w)"
SEP = r"[ .()/-]{0,3}"
PHONE = (
    rf"(?<![\w.+])\+{SEP}\d(?:{SEP}\d){{6,14}}(?!\w)",
    rf"(?<![\w.+])\(?0[ ()/-]{{0,3}}[1-9](?:{SEP}\d){{7,12}}(?!\w)",
    r"(?<![\w.+-])\(?[2-9]\d{2}\)?[ .-][2-9]\d{2}[ .-]\d{4}(?![\w-])",
)
"""With a country's number, with the 0 before an area's, and as in North America."""

Rule = tuple[re.Pattern[str], Callable[[re.Match[str]], str]]


class Redactor:
    """The rules, in their order: a key may hold what looks like a phone number, and a card's number is one of many digits."""

    def __init__(self, own: Iterable[str] = ()) -> None:
        fixed = [
            *((pattern, "[REDACTED]") for pattern in own),
            ("|".join(SECRET), "[KEY]"),
            (EMAIL, "[EMAIL]"),
        ]
        self.rules: list[Rule] = [(re.compile(p), lambda _, mark=mark: mark) for p, mark in fixed]  # type: ignore[misc]
        self.rules.append((re.compile(CARD), _card))
        self.rules.append((re.compile("|".join(PHONE)), lambda _: "[PHONE]"))

    def clean(self, value: Any) -> Any:
        """A JSON value with all its texts redacted; keys of objects stay."""
        if isinstance(value, str):
            for pattern, mark in self.rules:
                value = pattern.sub(mark, value)
            return value
        if isinstance(value, dict):
            return {key: self.clean(inner) for key, inner in value.items()}
        return [self.clean(inner) for inner in value] if isinstance(value, list | tuple) else value


def _card(found: re.Match[str]) -> str:
    """A card's number has a check digit (Luhn, US patent 2950048); other long numbers stay."""
    digits = [int(c) for c in found[0] if c.isdigit()][::-1]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return "[CARD]" if (sum(digits[::2]) + sum(doubled)) % 10 == 0 else found[0]

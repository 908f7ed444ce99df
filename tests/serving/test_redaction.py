"""redaction: what is taken out, what stays, and that nobody can make it slow."""

import re
import time

import pytest

from raystill.serving.redaction import Redactor

PEM = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMIIE+abc/==\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("mail a.b+c@mail.example.co.uk now", "mail [EMAIL] now"),
        ("call +49 (0)30 1234-5678 or 030 12345678", "call [PHONE] or [PHONE]"),
        ("(555) 234-5678, 415-555-2671, 0171/1234567", "[PHONE], [PHONE], [PHONE]"),
        ("4111 1111 1111 1111 or 5500-0000-0000-0004", "[CARD] or [CARD]"),
        ("use sk-proj-abcdefghijklmnop1234 or AKIAIOSFODNN7EXAMPLE", "use [KEY] or [KEY]"),
        ("password: hunter22! and Bearer abcdef0123456789abcdef", "[KEY] and [KEY]"),
        ("eyJhbGciOiJIUzI1.eyJzdWIiOiIxMjM0.SflKxwRJSMeKKF2QT4", "[KEY]"),
        (f"it is {PEM}.", "it is [KEY]."),
        ("ticket ACME-123", "ticket [REDACTED]"),
    ],
)
def test_it_is_taken_out(text: str, clean: str) -> None:
    assert Redactor([r"ACME-\d+"]).clean(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        "on 2024-01-15 at 10:30, or 01.02.2024",
        "12345678 apples, 3.14159265358979, 0.123456789, 1,000,000 of 20240115103000",
        "4111 1111 1111 1112 is no card, and 192.168.100.200 no phone",
        "five tokens per secretary, isbn 978-3-16-148410-0",
    ],
)
def test_it_stays(text: str) -> None:
    assert Redactor().clean(text) == text


def test_all_texts_of_a_value_are_cleaned_and_nothing_else() -> None:
    value = {"a@b.org": [{"content": "a@b.org"}, 5, None, True, ("a@b.org",)]}
    assert Redactor().clean(value) == {"a@b.org": [{"content": "[EMAIL]"}, 5, None, True, ["[EMAIL]"]]}


@pytest.mark.parametrize(
    "unit",
    ["1", "a.", "a@", "+1 ", "sk-", "eyJaaaaaaaa.", "-----BEGIN PRIVATE KEY-----", "(", "bearer ", "token", "0 "],
)
def test_its_time_grows_with_the_text_alone(unit: str) -> None:
    def seconds(size: int) -> float:
        text = unit * (size // len(unit))
        started = time.process_time()
        Redactor().clean(text)
        return time.process_time() - started

    # Twice the text in twice the time; were it squared, 64 times the text would take 4096 times as long.
    assert seconds(1 << 18) < 64 * 8 * max(seconds(1 << 12), 1e-4)


def test_the_recipes_patterns_are_checked() -> None:
    with pytest.raises(re.error):
        Redactor(["("])

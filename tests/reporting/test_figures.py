"""Numbers as people read them."""

import pytest

from raystill.reporting import figures


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0123, "12.3 ms"),
        (0.9994, "999 ms"),
        (1.0, "1 s"),
        (2.345, "2.35 s"),
        (600, "10 min"),
        (7200, "2 h"),
        (None, "–"),
    ],
)
def test_seconds(value: float | None, text: str) -> None:
    assert figures.seconds(value).replace(figures.THIN, " ") == text


@pytest.mark.parametrize(("value", "text"), [(512, "512 B"), (772_000, "772 kB"), (7_870_000, "7.87 MB"), (0, "–")])
def test_size(value: int, text: str) -> None:
    assert figures.size(value).replace(figures.THIN, " ") == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.05, "0.05"), (0.00042, "0.000420".rstrip("0")), (10, "10"), (100, "100"), (1234.5, "1,234")],
)
def test_three(value: float, text: str) -> None:
    assert figures.three(value) == text


def test_bleu_is_in_points_and_the_rest_in_percent() -> None:
    assert figures.metric("bleu", 41.23) == "41.2"
    assert figures.metric("accuracy", 0.4123).startswith("41.2")
    assert figures.metric_interval("bleu", [40.0, 42.0]) == "40.0–42.0"
    assert figures.metric_interval("accuracy", [0.4, 0.42]) == "40.0–42.0"

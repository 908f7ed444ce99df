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


def test_bleu_and_chrf_are_in_points_and_the_rest_in_percent() -> None:
    assert figures.metric("bleu", 41.23) == figures.metric("chrf", 41.23) == "41.2"
    assert figures.metric("accuracy", 0.4123).startswith("41.2")
    assert figures.metric_interval("bleu", [40.0, 42.0]) == "40.0–42.0"
    assert figures.metric_interval("accuracy", [0.4, 0.42]) == "40.0–42.0"
    assert figures.metric_points("chrf", -1.25) == figures.metric_points("accuracy", -0.0125) == "−1.2"


@pytest.mark.parametrize(
    ("metric", "name", "title"),
    [
        ("accuracy", "accuracy", "Accuracy"),
        ("chrf", "chrF", "chrF"),
        ("f1:card_arrival", "F1 of card_arrival", "F1 of card_arrival"),
        ("recall_at_0.05", "recall at 5.0 % false alarms", "Recall at 5.0 % false alarms"),
        ("refusals", "refusals", "Refusals"),
        ("own_metric", "own metric", "Own metric"),
    ],
)
def test_metrics_have_names(metric: str, name: str, title: str) -> None:
    assert figures.metric_name(metric).replace(figures.THIN, " ") == name
    assert figures.metric_title(metric).replace(figures.THIN, " ") == title


def test_metrics_are_what_has_an_interval_in_a_report() -> None:
    models = [
        {"rows": 3, "rouge_l": 0.4, "rouge_l_interval": None},
        {"agreement": 1, "agreement_interval": None, "bleu": 3},
    ]
    assert figures.metric_names([*models, {"f1:a": 1, "f1:a_interval": None}]) == ["rouge_l", "f1:a", "agreement"]

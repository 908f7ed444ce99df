"""What an answer says."""

import pytest

from raystill import reading


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("It is 3.\nAnswer: 7", "7"),
        ("Answer: 3? No.\n**Answer:** 7 ", "7"),
        ("Work.\n#### 72", "72"),
        ("Final answer: yes", "yes"),
        ("The answer: none", None),
        ("no mark", None),
        ("Answer:", ""),
    ],
)
def test_the_last_mark_counts(text: str, answer: str | None) -> None:
    assert reading.marked(text) == answer
    assert reading.answer(text) == (text.strip() if answer is None else answer)


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ('{"label": " high "}', "label", "high"),
        ('Sure:\n```json\n{"a": {"b": [1, {"c": true}]}}\n```', "a.b.1.c", "true"),
        ('[{"n": 2.5}]', "$.0.n", "2.5"),
        ('{"a": {"y": 1, "x": 2}}', "a", '{"x": 2, "y": 1}'),
        ('{"a": null}', "a", None),
        ('{"a": 1}', "b", None),
        ("[1]", "3", None),
    ],
)
def test_a_value_in_json(text: str, path: str, value: str | None) -> None:
    assert reading.at_path(reading.json_value(text), path) == value


@pytest.mark.parametrize("text", ["high", '{"label": "high"', "[" * 100_000, ""])
def test_what_is_no_json_says_so(text: str) -> None:
    with pytest.raises(ValueError):
        reading.json_value(text)


@pytest.mark.parametrize(
    ("reference", "label"), [("Neutral", "neutral"), ("2", "contradiction"), ("3", None), ("-1", None), ("maybe", None)]
)
def test_a_reference_is_a_label_or_its_number(reference: str, label: str | None) -> None:
    assert reading.reference_label(["entailment", "neutral", "contradiction"], reference) == label

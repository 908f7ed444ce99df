"""summarization and translation: texts that are near to their reference, or not."""

import pytest

from raystill import recipe
from raystill.records import Message, Prompt
from raystill.tasks.summarization import Summarization
from raystill.tasks.translation import Translation

ASKED = Prompt("1", None, [Message("user", "The red rug is here.")], None, "t", "rows.jsonl:1", "test", None, "{}")
SUMMARY = Summarization((), recipe.Task(kind="summarization", max_len_summary=5))
TRANSLATION = Translation((), recipe.Task(kind="translation", language="German"))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("A rug came.", None),
        ("one two three four five six", None),
        ("one two three four five six seven", "longer than max_len_summary"),
        ("First I wrote a very much longer one.\nAnswer: A rug came.", None),
        (" ", "no summary"),
        ("Answer:", "no summary"),
    ],
)
def test_a_summary_is_short(text: str, fault: str | None) -> None:
    assert SUMMARY.check(ASKED, text) == fault


def test_rouge_is_of_the_last_summary() -> None:
    said = ["A green rug.\nAnswer: a red rug came"]
    made = SUMMARY.measure(said, ["the red rug came"])
    assert list(made) == ["rouge_l", "rouge_1", "rouge_2"]
    assert [m.point() for m in made.values()] == pytest.approx([3 / 4, 3 / 4, 2 / 3])
    assert SUMMARY.score(ASKED, said[0]) == {}


@pytest.mark.parametrize(
    ("text", "fault"),
    [("Der rote Teppich ist hier.", None), ("The red  rug is here.", "not translated"), (" ", "no translation")],
)
def test_a_translation_is_another_text(text: str, fault: str | None) -> None:
    assert TRANSLATION.check(ASKED, text) == fault


def test_chrf_comes_before_bleu() -> None:
    made = TRANSLATION.measure(["Der rote Teppich ist da."], ["Der rote Teppich ist hier."])
    assert list(made) == ["chrf", "bleu"]
    assert all(0 < m.point() < 100 for m in made.values())

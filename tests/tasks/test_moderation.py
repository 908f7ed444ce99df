import pytest

from raystill import recipe
from raystill.records import Prompt
from raystill.tasks.moderation import Moderation

TASK = Moderation((), recipe.Task(kind="moderation", false_positive_rate=0.5))


def prompt(reference: str | None) -> Prompt:
    return Prompt("1", None, [], None, "moderation", "rows.jsonl:1", "test", reference, "{}")


@pytest.mark.parametrize(
    ("text", "label", "sure"),
    [
        ("unsafe 90", "unsafe", 90),
        ("Safe, 5.", "safe", 5),
        ("unsafe", "unsafe", 100),
        ("safe", "safe", 0),
        ("It threatens him.\nAnswer: unsafe (100)", "unsafe", 100),
        ("safe or unsafe 50", None, 0),
        ("90", None, 0),
        ("unsafe 250", "unsafe", 100),
    ],
)
def test_a_label_and_how_sure_it_is(text: str, label: str | None, sure: int) -> None:
    assert (TASK.parse(text), TASK.sure(text)) == (label, sure)
    assert TASK.check(prompt(None), text) == (None if label else "names no single label")


def test_recall_at_the_rate_and_f1() -> None:
    texts = ["unsafe 90", "safe 40", "safe 30", "unsafe 60", "safe 10", ""]
    made = TASK.measure(texts, ["1", "1", "unsafe", "0", "safe", "maybe"])
    assert list(made) == ["recall_at_0.5", "macro_f1", "f1:safe", "f1:unsafe"]
    assert made["recall_at_0.5"].point() == 1  # at 30, one of two safe ones is flagged
    assert made["f1:unsafe"].point() == pytest.approx(2 / 5)
    assert TASK.score(prompt("0"), "unsafe 60") == {"accuracy": 0.0}
    assert TASK.score(prompt("maybe"), "safe") == {}


def test_all_labels_but_the_first_are_flagged() -> None:
    task = Moderation((), recipe.Task(kind="moderation", labels=["ok", "spam", "hate"]))
    digits = Moderation((), recipe.Task(kind="moderation", labels=["0", "1"]))
    assert [digits.sure(text) for text in ("1", "0", "1 70", "0, 20")] == [100, 0, 70, 20]
    assert (task.sure("hate"), task.sure("ok"), task.parse("spam 70")) == (100, 0, "spam")

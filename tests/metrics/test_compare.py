import math
from dataclasses import replace

import pytest

from raystill import recipe
from raystill.metrics.compare import Comparison, compare
from raystill.records import Answer, Prompt
from raystill.tasks.classification import Classification
from raystill.tasks.conversation import Conversation
from raystill.tasks.translation import Translation

LABELS = ("a", "b")
CLASSIFICATION = Classification(LABELS, recipe.Task(kind="classification"))
CONVERSATION = Conversation((), recipe.Task(kind="conversation"))


def prompts(n: int, referenced: int | None = None) -> list[Prompt]:
    return [
        Prompt(
            str(i),
            None,
            [],
            None,
            "t",
            "f",
            "test",
            LABELS[i % 2] if referenced is None or i < referenced else None,
            "{}",
        )
        for i in range(n)
    ]


def answers(model: str, texts: list[str], failed: tuple[int, ...] = ()) -> list[Answer]:
    return [
        Answer(str(i), model, "test", text, "stop", 1, 1, 0.1, 0.2, "ReadTimeout" if i in failed else None)
        for i, text in enumerate(texts)
    ]


def compared(**models: list[Answer]) -> Comparison:
    return compare(CLASSIFICATION, "classification", prompts(4), models, {"student": "baseline"}, 200)


def test_every_number_of_three_models() -> None:
    made = compared(
        teacher=answers("teacher", ["a", "b", "a", "a"]),
        baseline=answers("baseline", ["?", "?", "?", "b"]),
        student=answers("student", ["A.", "b", "b", "b"]),
    )
    teacher, baseline, student = (made.models[m] for m in ("teacher", "baseline", "student"))
    assert [teacher.metrics["accuracy"].value, baseline.metrics["accuracy"].value] == [0.75, 0.25]
    assert student.metrics["accuracy"].value == 0.75
    assert student.metrics["exact_match"].value == 0.5
    assert student.metrics["agreement"].value == 0.5
    assert "agreement" not in teacher.metrics
    assert baseline.metrics["agreement"].value == 0
    assert teacher.metrics["macro_f1"].value == pytest.approx((4 / 5 + 2 / 3) / 2)
    against = made.students["student"]
    assert against.retention and against.retention.value == 1.0
    assert against.behind_teacher and against.behind_teacher.value == 0
    assert against.gain and against.gain.value == 0.5
    assert against.gap_closed is None, "over four rows the teacher may lead by nothing"
    low, high = against.gain.interval or (1, 0)
    assert low <= 0.5 <= high
    assert made.notes == []
    assert {(m.model, m.metric) for m in made.per_row if m.id == "0"} == {
        ("teacher", "accuracy"), ("baseline", "accuracy"), ("baseline", "agreement"),
        ("student", "accuracy"), ("student", "agreement"),
    }  # fmt: skip


def test_a_failed_answer_is_wrong_and_counted() -> None:
    right = ["a", "b", "a", "b"]
    made = compared(teacher=answers("teacher", right), student=answers("student", right, failed=(1,)))
    student = made.models["student"]
    assert (student.rows, student.errors, student.metrics["accuracy"].value) == (4, 1, 0.75)
    assert student.metrics["exact_match"].value == student.metrics["agreement"].value == 0.75
    assert made.students["student"].gain is None


def test_only_rows_asked_of_all_models_are_compared() -> None:
    made = compared(teacher=answers("teacher", ["a", "b", "b", "a"]), student=answers("student", ["a", "b"]))
    assert made.rows == made.models["teacher"].rows == 2
    assert made.models["teacher"].metrics["accuracy"].value == 1.0


def test_without_references_agreement_stands_in_and_a_note_says_why() -> None:
    made = compare(
        CONVERSATION,
        "conversation",
        prompts(2, referenced=0),
        {"teacher": answers("teacher", ["x  y", "z"]), "student": answers("student", ["x y", "no"])},
        {"student": "baseline"},
        200,
    )
    assert list(made.models["student"].metrics) == ["refusals", "agreement"]
    assert made.models["student"].metrics["agreement"].value == 0.5
    assert made.students["student"].retention is None
    assert "agreement with the teacher stands in its place" in made.notes[0]
    assert "no row has a reference" in made.notes[0]


def test_references_of_some_rows_are_said_to_be_some() -> None:
    said = ["a", "b", "a", "b"]
    made = compare(
        CONVERSATION, "conversation", prompts(4, referenced=3), {"student": answers("student", said)}, {}, 200
    )
    assert made.models["student"].metrics["accuracy"].rows == 3
    assert made.models["student"].metrics["bleu"].rows == 3
    assert any("accuracy is over 3 of 4 rows" in note for note in made.notes)
    assert any("the teacher has no weights" in note for note in made.notes)


def test_a_teacher_that_is_never_right_gives_no_retention() -> None:
    made = compared(teacher=answers("teacher", ["?"] * 4), student=answers("student", ["a"] * 4))
    assert made.students["student"].retention is None
    assert "no retention: the teacher got no row right" in made.notes


def test_all_values_are_finite() -> None:
    made = compared(teacher=answers("teacher", [""] * 4), student=answers("student", [""] * 4))
    values = [v for m in made.models.values() for v in m.metrics.values()]
    assert values and all(math.isfinite(v.value) for v in values)


def test_a_task_without_accuracy_is_decided_by_its_first_metric() -> None:
    made = compare(
        Translation((), recipe.Task(kind="translation")),
        "translation",
        [replace(p, reference="the red rug is here") for p in prompts(4)],
        {
            "teacher": answers("teacher", ["the red rug is here"] * 4),
            "student": answers("student", ["a red rug is there"] * 4),
        },
        {"student": "baseline"},
        200,
    )
    student = made.students["student"]
    teacher_chrf, chrf = (made.models[m].metrics["chrf"].value for m in ("teacher", "student"))
    assert student.by == "chrf" and teacher_chrf == pytest.approx(100)
    assert student.retention and student.retention.value == pytest.approx(chrf / teacher_chrf)
    assert student.behind_teacher and student.behind_teacher.value == pytest.approx(chrf - 100)
    assert made.notes == []


def test_a_conversation_is_right_when_every_turn_is() -> None:
    turns = [replace(p, conversation_id="ab"[i // 2]) for i, p in enumerate(prompts(4))]
    made = compare(CONVERSATION, "conversation", turns, {"student": answers("student", ["a", "b", "a", "?"])}, {}, 200)
    metrics = made.models["student"].metrics
    assert (metrics["accuracy"].value, metrics["whole_conversations"].value) == (0.75, 0.5)
    assert metrics["whole_conversations"].rows == 2


def test_the_share_of_the_gap_that_is_closed_is_paired_by_row() -> None:
    right = {"teacher": 36, "baseline": 4, "student": 28}
    said = {m: answers(m, [LABELS[i % 2] if i < n else "?" for i in range(40)]) for m, n in right.items()}
    made = compare(CLASSIFICATION, "classification", prompts(40), said, {"student": "baseline"}, 500)
    closed = made.students["student"].gap_closed
    assert closed and closed.value == pytest.approx((28 - 4) / (36 - 4)) and closed.rows == 40
    assert closed.interval and closed.interval.low < closed.value < closed.interval.high < 1

"""Answers side by side."""

from raystill.reporting.differences import SHOWN_CHARS, differences, mark
from raystill.reporting.findings import Said


def said(id_: str, teacher: str, student: str, right: tuple[bool | None, bool | None] = (None, None)) -> Said:
    return Said(
        id_,
        "question",
        "gold",
        {"teacher": teacher, "student": student},
        dict(zip(("teacher", "student"), right, strict=True)),
    )


def test_only_the_words_that_differ_are_marked_and_nothing_is_lost() -> None:
    left, right = mark("your kettle of 3 May leaves", "your kettle of 4 May leaves")
    assert [p.text for p in left if p.differs] == ["3"]
    assert [p.text for p in right if p.differs] == ["4"]
    assert "".join(p.text for p in left) == "your kettle of 3 May leaves"


def test_rows_that_the_student_lost_come_first() -> None:
    rows = [
        said("words", "a b", "a c", (True, True)),
        said("gained", "x", "y", (False, True)),
        said("both", "x", "y", (False, False)),
        said("lost", "x", "y", (True, False)),
        said("same", "x  y", "x y", (True, True)),
    ]
    found = differences(rows, "teacher", "student", 40)
    assert [p.id for p in found.pairs] == ["lost", "both", "gained", "words"]
    assert (found.differing, found.rows) == (4, 5)


def test_the_rest_is_counted() -> None:
    found = differences([said(str(i), "x", "y") for i in range(50)], "teacher", "student", 40)
    assert (len(found.pairs), found.differing) == (40, 50)


def test_the_reference_stands_for_a_teacher_that_was_not_asked() -> None:
    rows = [
        Said("1", "question", "gold", {"student": "tin"}, {"student": False}),
        Said("2", "question", None, {"student": "tin"}, {}),
    ]
    found = differences(rows, "teacher", "student", 40)
    assert found.rows == 1
    assert found.pairs[0].left.name == "reference"
    assert found.pairs[0].reference is None


def test_long_answers_are_cut_and_the_rest_counted() -> None:
    found = differences([said("1", "w " * SHOWN_CHARS, "x")], "teacher", "student", 40)
    assert found.pairs[0].left.more == SHOWN_CHARS

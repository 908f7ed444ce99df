"""What models are told where the recipe does not say."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from raystill import tasks
from raystill.recipe import Recipe


def told(task: Any, **more: Any) -> tuple[str | None, str | None]:
    """What the teacher and the student are told."""
    whole = {
        "name": "x",
        "task": task,
        "data": {"train": "a.jsonl"},
        "teacher": {"model": "a"},
        "student": {"model": "b"},
    }
    made = tasks.with_prompts(Recipe.model_validate(whole | more))
    assert made.student
    return made.teacher.system, made.student.system


def test_every_kind_but_the_free_ones_has_words_of_its_own() -> None:
    for kind in ("nli", "qa", "math", "summarization", "moderation"):
        teacher, student = told(kind)
        assert teacher and teacher == student
    assert told("conversation") == told("classification") == told("translation") == (None, None)
    assert (
        told({"kind": "translation", "language": "German"})[0]
        == "Translate the text into German. Give the answer alone."
    )


def test_only_the_teacher_reasons_unless_the_student_learns_it() -> None:
    teacher, student = told({"kind": "nli", "chain_of_thought": True})
    assert teacher and teacher.endswith(tasks.STEPS)
    assert student and student.endswith(tasks.ALONE)
    teacher, student = told({"kind": "math", "chain_of_thought": True}, curate={"reasoning": True})
    assert teacher == student


def test_a_dense_summary_is_asked_of_the_teacher() -> None:
    teacher, student = told({"kind": "summarization", "chain_of_density": True, "max_len_summary": 40})
    assert teacher == f"Summarize the text in at most 40 words. {tasks.DENSER}"
    assert student == f"Summarize the text in at most 40 words. {tasks.ALONE}"


def test_labels_are_in_the_words() -> None:
    assert "ok, spam" in str(told({"kind": "moderation", "labels": ["ok", "spam"]})[0])
    assert "yes, no" in str(told({"kind": "nli", "labels": ["yes", "no"]})[0])


def test_the_recipes_own_words_stand() -> None:
    assert told("math", teacher={"model": "a", "system": "Hm."})[0] == "Hm."
    assert told("math", student={"model": "b", "system": None})[1] is None
    assert told({"kind": "math", "system": "Count."}) == ("Count.", "Count.")
    assert told({"parse": {"choices": ["a", "b"]}, "system": "Choose.", "chain_of_thought": True}) == (
        f"Choose. {tasks.STEPS}", f"Choose. {tasks.ALONE}",
    )  # fmt: skip


def test_several_teachers_and_students_are_all_told() -> None:
    whole = {
        "name": "x", "task": "qa", "data": {"train": "a.jsonl"},
        "teachers": {"one": {"model": "a"}, "two": {"model": "b", "system": "Mine."}},
        "students": {"small": {"model": "c"}, "tiny": {"model": "d"}},
    }  # fmt: skip
    made = tasks.with_prompts(Recipe.model_validate(whole))
    assert made.teacher == made.teachers["one"] and made.teachers["two"].system == "Mine."
    assert made.students["small"].system == made.students["tiny"].system == made.teacher.system


@pytest.mark.parametrize(
    ("task", "said"),
    [
        ({"kind": "math", "chain_of_density": True}, "says nothing to task math, only to summarization"),
        ({"kind": "conversation", "chain_of_thought": True}, "only to nli, qa, math, moderation, own"),
        ({"kind": "qa", "parse": {"regex": "x"}}, "only to own"),
        ({}, "choices: .low, high."),
        ({"parse": {"regex": "x", "json_path": "y"}}, "exactly one of regex, json_path and choices"),
        ({"parse": {"regexp": "x"}}, "did you mean 'regex'"),
        ({"parse": {"regex": "x"}, "metric": ["bleu"]}, "did you mean 'metrics'"),
    ],
)
def test_what_a_task_cannot_mean_is_refused(task: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        told(task)


def test_the_guides_examples_are_valid() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text()
    examples = [yaml.safe_load(block) for block in re.findall(r"^    task:\n?.*\n(?: {4}.*\n)*", guide, re.MULTILINE)]
    assert len(examples) == 4
    for example in examples:
        assert Recipe.model_validate(
            {"name": "x", "data": {"train": "a"}, "teacher": {"model": "a"}, "student": {"model": "b"}} | example
        )

"""Slices and regressions over rows whose right and wrong are known."""

import json
from pathlib import Path

import pytest
from test_report import line, recipe

from raystill.reporting.findings import Said
from raystill.reporting.slices import THIRDS, regressions, slices
from raystill.stages.report import report


def said(i: int, teacher: bool | None, student: bool, baseline: bool = False) -> Said:
    right = {"student": student, "baseline": baseline} | ({} if teacher is None else {"teacher": teacher})
    return Said(f"r{i}", "x" * i, "abc"[i % 3], {}, right, {"channel": "mail" if i < 40 else "chat", "some": None})


ROWS = [said(i, True, i % 3 != 1 or i >= 40) for i in range(60)]


def test_the_weakest_slice_comes_first_with_its_interval_and_lost_rows() -> None:
    found = slices(ROWS, "student", ["channel", "some", "absent"], 500)
    assert {s["by"] for s in found} == {"class", "length", "channel"}, (
        "a column of one value or none tells nothing apart"
    )
    worst = found[0]
    assert (worst["by"], worst["value"], worst["rows"]) == ("class", "b", 20)
    assert worst["student"] == pytest.approx(7 / 20) and worst["teacher"] == 1.0
    low, high = worst["behind_interval"]
    assert worst["behind"] == pytest.approx(-13 / 20) and low < worst["behind"] < high < 0
    assert worst["lost"] == ["r1", "r4", "r7"]
    by_length = {s["value"]: s["rows"] for s in found if s["by"] == "length"}
    assert by_length == dict.fromkeys(THIRDS, 20)
    assert [s["behind"] for s in found] == sorted(s["behind"] for s in found)


def test_without_a_teacher_the_lowest_share_comes_first() -> None:
    found = slices([said(i, None, i % 3 != 1) for i in range(30)], "student", [], 100)
    assert found[0]["value"] == "b" and found[0]["teacher"] is None and found[0]["student"] == 0


def test_references_that_all_differ_are_no_classes() -> None:
    free = [Said(f"{i}", "x", f"answer {i}", {}, {"student": True}) for i in range(9)]
    assert not [s for s in slices(free, "student", [], 100) if s["by"] == "class"]


def test_regressions_are_rows_that_the_baseline_had() -> None:
    rows = [said(i, True, student=i > 4, baseline=i % 2 == 0) for i in range(10)]
    assert regressions(rows, "student", "baseline") == {"rows": 10, "lost": 3, "ids": ["r0", "r2", "r4"]}
    assert regressions([Said("a", "x", None, {}, {"student": None})], "student", "baseline") is None


def test_the_page_shows_them(tmp_path: Path) -> None:
    folder = Path(report(recipe(tmp_path), line(tmp_path)))
    made, page = json.loads((folder / "report.json").read_text()), (folder / "report.html").read_text()
    assert {s["by"] for s in made["slices"]["student"]} == {"length"}
    assert "Where student is weakest" in page and "Student has nothing wrong that its baseline had right" in page

"""Two finished runs beside each other."""

import json
from pathlib import Path

import pytest
from test_report import line, recipe
from typer.testing import CliRunner

from raystill.cli import app
from raystill.recipe import Recipe
from raystill.reporting.beside import beside, page, text
from raystill.stages.report import read, report


def written(root: Path, name: str, right: int, **more: object) -> Recipe:
    """A finished run whose student is right on so many of 20 rows."""
    made: Recipe = recipe(root, name=name, **more)
    report(made, line(root / name, student=right))
    return made


def test_two_runs_differ_by_an_interval_over_the_rows_that_both_were_asked(tmp_path: Path) -> None:
    first = written(tmp_path, "first", 8)
    second = written(tmp_path, "second", 16, train={"learning_rate": 3e-4})
    (a, rows), (b, more) = read(first), read(second)
    said = text(beside(a, b, (rows, more), 500)).splitlines()
    (accuracy,) = [text for text in said if text.startswith("student") and " accuracy " in text]
    assert "40.0 %" in accuracy and "80.0 %" in accuracy and "+40.0 [" in accuracy
    (teacher,) = [text for text in said if text.startswith("teacher") and " accuracy " in text]
    assert "+0.0 [+0.0, +0.0]" in teacher
    assert "  train.student.learning_rate: 0.0001 -> 0.0003" in said or any("learning_rate" in s for s in said)
    bleu = next(text for text in said if text.startswith("student") and "BLEU" in text)
    assert "[" not in bleu, "a corpus metric is no mean of rows"


def test_other_rows_have_no_interval(tmp_path: Path) -> None:
    (a, rows), (b, more) = (read(written(tmp_path, name, 8)) for name in ("first", "second"))
    said = text(beside(a, b, (rows, [m for m in more if m.id != "r3"]), 100)).splitlines()
    assert "asked different rows" in said[1] and not any("[" in text for text in said)
    assert "the recipes say the same" in said


def test_it_is_printed_from_two_recipes(tmp_path: Path) -> None:
    paths = []
    for name in ("first", "second"):
        made = written(tmp_path, name, 8)
        paths.append(tmp_path / f"{name}.yaml")
        paths[-1].write_text(json.dumps(made.model_dump(mode="json", by_alias=True, exclude_unset=True)))
    printed = CliRunner().invoke(app, ["report", "--compare", *map(str, paths)])
    assert printed.exit_code == 0 and printed.output.startswith("first (")
    written_page = (tmp_path / "reports" / "second" / "beside-first.html").read_text()
    assert "<script" not in written_page and "both were asked the same 20 rows" in written_page


def test_the_page_says_what_is_printed_and_keeps_a_recipes_text_as_text(tmp_path: Path) -> None:
    (a, rows), (b, more) = (read(written(tmp_path, name, right)) for name, right in (("first", 8), ("second", 16)))
    b["settings"]["filters"] = ["<b>x</b>"]
    found = beside(a, b, (rows, more), 200)
    shown = page(found)
    assert all(cell in shown for line in found.lines for cell in line)
    assert "<b>x" not in shown and "&lt;b&gt;x" in shown


def test_a_run_without_a_report_is_told(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="'small' has no report under"):
        read(recipe(tmp_path))

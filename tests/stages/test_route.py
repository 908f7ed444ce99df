"""route: which teacher is asked what."""

import io
import json
from pathlib import Path

import pytest

from raystill import artifacts, recipe
from raystill.artifacts import Manifest, Table
from raystill.context import Context
from raystill.errors import DataError
from raystill.records import Generation, Message, Prompt
from raystill.stages import route
from raystill.teachers import failure, generation
from raystill.view import Lines

LANGUAGES = ("de", "fr", "en")


def prompts_of(root: Path) -> tuple[list[Prompt], Table]:
    rows = [
        Prompt(f"r{i}", None, [Message("user", f"{i}")], None, "t", "f", "train", None,
               json.dumps({"language": LANGUAGES[i % 3]}))
        for i in range(9)
    ]  # fmt: skip
    parts = [artifacts.write_part(str(root / "p"), "train", Prompt, rows[i : i + 3]) for i in (0, 3, 6)]
    return rows, artifacts.commit(Table, str(root / "p"), Manifest("prompts", 1, "prepare", 1, "p", {}, {}, parts))


def context(folder: Path) -> Context:
    return Context(str(folder), recipe.Compute(), Lines(io.StringIO()), 0.05, folder)


def ids(folder: Path, outcome: artifacts.Outcome) -> list[str]:
    made = artifacts.commit(Table, str(folder), Manifest("prompts", 1, "route", 1, "r", {}, {}, list(outcome.files)))
    return sorted(p.id for p in made.rows(Prompt))


def test_a_column_says_who_answers_and_nobody_is_lost(tmp_path: Path) -> None:
    _, prompts = prompts_of(tmp_path)
    by = recipe.ByColumn(by="language", map={"de": "a", "*": "b"})
    shares = {n: ids(tmp_path / n, route.by_column(by, n, prompts, context(tmp_path / n))) for n in ("a", "b")}
    assert shares == {"a": ["r0", "r3", "r6"], "b": ["r1", "r2", "r4", "r5", "r7", "r8"]}


def test_a_value_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    _, prompts = prompts_of(tmp_path)
    by = recipe.ByColumn(by="language", map={"de": "a", "fr": "b"})
    with pytest.raises(DataError, match=r"language = 'en' \(3 rows\)"):
        route.by_column(by, "a", prompts, context(tmp_path / "a"))


def test_the_next_teacher_gets_what_the_one_before_got_wrong(tmp_path: Path) -> None:
    rows, prompts = prompts_of(tmp_path)
    answers = [failure(rows[0], "down"), generation(rows[1], text=""), *(generation(p, text="fine") for p in rows[2:])]
    parts = [artifacts.write_part(str(tmp_path / "g"), "train", Generation, answers)]
    before = artifacts.commit(Table, str(tmp_path / "g"), Manifest("g", 1, "generate", 1, "g", {}, {}, parts))
    outcome = route.failed(recipe.Task(kind="conversation"), prompts, before, context(tmp_path / "next"))
    assert ids(tmp_path / "next", outcome) == ["r0", "r1"]
    assert outcome.counts == {"rows": 2, "of": 9}


def test_a_share_is_drawn_anew_for_each_number(tmp_path: Path) -> None:
    rows = [Prompt(f"r{i}", None, [Message("user", f"{i}")], None, "t", "f", "train", None, "{}") for i in range(400)]
    part = artifacts.write_part(str(tmp_path / "p"), "train", Prompt, rows)
    prompts = artifacts.commit(Table, str(tmp_path / "p"), Manifest("prompts", 1, "prepare", 1, "p", {}, {}, [part]))
    first, again, second = (
        ids(tmp_path / f"{i}", route.drawn(0.25, number, prompts, context(tmp_path / f"{i}")))
        for i, number in enumerate((1, 1, 2))
    )
    assert first == again != second
    # Each is drawn with p = 1/4, both with 1/16: within four standard deviations.
    assert len(first) == pytest.approx(100, abs=4 * 8.7)
    assert len(set(first) & set(second)) == pytest.approx(25, abs=4 * 4.9)
    with pytest.raises(DataError, match=r"lambda 1e-09 draws none"):
        route.drawn(1e-9, 1, prompts, context(tmp_path / "none"))

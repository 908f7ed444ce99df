"""What a judge, people, further test data and a search for users add to a finished line's report."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_report import line, recipe, table

from raystill import artifacts
from raystill.errors import DataError
from raystill.pipeline import Line, Suited
from raystill.recipe import Recipe
from raystill.records import Answer, Load, Message, Prompt, SuiteScore, Verdict
from raystill.serving.votes import Vote, Votes, place
from raystill.stages.report import report

JUDGE = {"endpoint": {"url": "https://h", "model": "gpt-of-the-test"}}


def judged(root: Path, line: Line) -> Line:
    """The judge prefers the student on rows 0 to 9, in both orders, and the teacher on all others."""
    rows = [
        Verdict(f"r{i}", "student", "teacher", first, "model" if i < 10 else "against")
        for i in range(20)
        for first in (True, False)
    ]
    url, counts = root / "judge", {"asked": 40, "unparsed": 0, "cost": 1.5}
    verdicts = table(
        url, "verdicts", artifacts.write_part(str(url), "test", Verdict, rows), counts=counts, stage="judge"
    )
    return Line(**{**vars(line), "verdicts": verdicts})


def made(root: Path, line: Line, **evaluate: Any) -> tuple[dict[str, Any], str, Path]:
    whole: Recipe = recipe(root, evaluate={"resamples": 200} | evaluate)
    folder = Path(report(whole, line))
    return json.loads((folder / "report.json").read_text()), (folder / "report.html").read_text(), folder


def test_a_judge_stands_beside_the_tasks_own_metrics_and_decides_nothing(tmp_path: Path) -> None:
    plain, _, _ = made(tmp_path / "plain", line(tmp_path / "plain"))
    report_, page, folder = made(tmp_path, judged(tmp_path, line(tmp_path)), judge=JUDGE)
    assert report_["retention"] == plain["retention"] and plain["judge"] is None
    assert report_["judge"]["by"] == "gpt-of-the-test" and report_["judge"]["simulated"] is False
    (pair,) = report_["judge"]["lines"]
    assert pair["rate"] == 0.5 and pair["counts"] == {"wins": 10, "ties": 0, "losses": 10, "unread": 0}
    assert pair["agrees"]["references"]["rows"] == 20
    assert "What a judge says" in page and "gpt-of-the-test" in page
    assert "student against teacher" in (folder / "judge.md").read_text()
    assert report_["cost"]["teacher_endpoint"] is None and report_["judge"]["cost"] == 1.5
    assert any("20 rows are too few" in note for note in report_["judge"]["notes"])


def test_people_who_voted_are_heard(tmp_path: Path) -> None:
    votes = Votes(place(recipe(tmp_path).root, recipe(tmp_path).name))
    for i in range(6, 14):
        answers = {"teacher": "a", "student": "b", "baseline": "c"}
        votes.add(Vote([], answers, "student" if i < 10 else "teacher", row=f"r{i}"))
    votes.add(Vote([], {"teacher": "a", "student": "b"}, "teacher"))
    report_, _, _ = made(tmp_path, judged(tmp_path, line(tmp_path)), judge=JUDGE)
    people = report_["judge"]["lines"][0]["agrees"]["people"]
    assert (people["kappa"], people["rows"]) == (1.0, 8)
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "0.json").write_text("{}")
    with pytest.raises(DataError, match="no votes"):
        made(tmp_path, judged(tmp_path, line(tmp_path)), judge=JUDGE | {"votes": str(tmp_path / "odd")})


def test_further_rows_have_the_tasks_own_metrics_and_lm_eval_its_standard_errors(tmp_path: Path) -> None:
    rows = [
        Prompt(f"h{i}", None, [Message("user", f"{i}")], None, "conversation", "f", "test", f"{i}", "{}")
        for i in range(10)
    ]
    hard = Suited(table(tmp_path / "h", "prompts", artifacts.write_part(str(tmp_path / "h"), "test", Prompt, rows)))
    sums = Suited(None)
    for name, right in (("teacher", 10), ("student", 5)):
        url = tmp_path / f"h-{name}"
        said = [
            Answer(f"h{i}", name, "test", f"{i}" if i < right else "none", "stop", 1, 1, 0.1, 0.2) for i in range(10)
        ]
        hard.made[name] = table(url, "answers", artifacts.write_part(str(url), "test", Answer, said))
        url = tmp_path / f"s-{name}"
        scores = [SuiteScore(name, "sums", "exact_match", right / 10, 0.05, 10)]
        sums.made[name] = table(url, "scores", artifacts.write_part(str(url), "suite", SuiteScore, scores))
    whole = Line(**{**vars(line(tmp_path)), "suites": {"hard": hard, "sums": sums}})
    report_, page, _ = made(tmp_path, whole, suites={"hard": {"data": "h.jsonl"}, "sums": {"lm_eval": "sums"}})
    assert report_["rows"] == 20
    student = report_["suites"]["hard"]["models"]["student"]["accuracy"]
    assert student["value"] == 0.5 and student["interval"][0] < 0.5 < student["interval"][1]
    assert report_["suites"]["sums"]["models"]["student"] == {
        "sums: exact_match": {"value": 0.5, "stderr": 0.05, "rows": 10}
    }
    assert "Further test data" in page and "±" in page and "student on hard" in {s["step"] for s in report_["steps"]}


def test_users_served_and_what_they_cost_are_within_the_objective(tmp_path: Path) -> None:
    whole = line(tmp_path)
    for name, most in (("teacher", 2), ("student", 50)):
        loads = [
            Load(
                name, "cpu", n, 40, 0, 1.0, 0.1, 0.1, 0.01, 1.0, 1.0 if n <= most else 9.0, 10.0 * n, 1.0 * n, 100, 1000
            )
            for n in ((1, 2, 3, 4) if most == 2 else (1, 4, 16, 50))
        ]
        url = tmp_path / f"more-{name}"
        whole.loads[name] = table(url, "load", artifacts.write_part(str(url), "load", Load, loads))
    report_, page, _ = made(tmp_path, whole, objective={"latency_p95_s": 2.0}, max_users=50)
    models = report_["models"]
    assert models["teacher"]["users"] == {"served": 2, "broken_at": 3, "objective": {"latency_p95_s": 2.0}}
    assert models["student"]["users"]["served"] == 50 and models["student"]["users"]["broken_at"] is None
    assert models["teacher"]["cost_per_1000_answers"] == pytest.approx(3.6 / 3600 / 2 * 1000)
    assert models["teacher"]["cost_per_million_tokens"] == pytest.approx(3.6 / 3600 / 20 * 1e6)
    assert models["student"]["cost_per_1000_answers"] == pytest.approx(3.6 / 3600 / 50 * 1000)
    assert "no longer at 3" in page and "and more: none tried was too many" in page
    assert "3 requests at once" not in page and "4 requests at once" in page
    assert any("no energy" in note for note in report_["notes"])

"""A judge's figures as the report tells them."""

from typing import Any

from raystill.metrics.bootstrap import Interval
from raystill.metrics.compare import Value
from raystill.metrics.judged import Judged
from raystill.reporting import figures
from raystill.reporting.findings import Judgement
from raystill.reporting.judgement import judgement, shown, table

COUNTS = {"asked": 80, "unparsed": 0, "cost": 0.0}
PAIR = Judged(
    "student",
    "teacher",
    Value(0.45, Interval(0.3, 0.6), 40),
    {"wins": 10, "ties": 16, "losses": 14, "unread": 0},
    0.1,
    0.5,
    {"references": Value(0.62, Interval(0.4, 0.8), 40)},
)


def told(*lines: Judged, by: str = "large-judge", compared: str | None = None, **counts: Any) -> dict[str, Any]:
    return judgement(Judgement(by, compared, "pairwise", lines, COUNTS | counts))


def test_a_pair_with_its_interval_and_whom_the_judge_agrees_with() -> None:
    made = told(PAIR)
    assert made["simulated"] is False and made["notes"] == []
    (line,) = made["lines"]
    assert (line["rate"], line["rate_interval"], line["rows"]) == (0.45, [0.3, 0.6], 40)
    assert line["agrees"] == {"references": {"kappa": 0.62, "interval": [0.4, 0.8], "rows": 40}}
    (row,) = shown(made)
    assert row["name"] == "student against teacher"
    assert row["cells"][1:] == ["10 / 16 / 14", f"10.0{figures.THIN}%"] and row["cells"][0].startswith("45.0")
    assert row["kappas"] == ["0.62 (0.40 to 0.80)", "–"]
    assert f"| student against teacher | 45.0{figures.THIN}% (30.0–60.0) | 10 / 16 / 14 |" in table(made)


def test_what_weakens_a_judge_is_said() -> None:
    few = Judged("student", "teacher", Value(0.5, None, 9), {"wins": 0, "ties": 9, "losses": 0, "unread": 1}, 0.6, 0.9)
    notes = "\n".join(told(few, by="scripted-judge", compared="teacher", unparsed=2)["notes"])
    for said in (
        "simulated",
        "is teacher itself",
        "in 2 of 80 requests",
        "9 rows are too few",
        "changed with the order",
    ):
        assert said in notes
    assert "nobody has checked this judge" in notes
    assert told(few, by="my-Simulated-judge")["simulated"]


def test_scores_are_told_by_how_often_each_was_given() -> None:
    line = Judged("student", None, Value(3.25, Interval(3.0, 3.5), 40), {"3": 30, "4": 10, "unread": 0}, None, None)
    made = judgement(Judgement("j", None, "rubric", [line], COUNTS))
    assert shown(made)[0]["cells"] == ["3.25 (3.00–3.50)", "0 / 0 / 30 / 10 / 0"]
    assert "| student | 3.25 (3.00–3.50) | 0 / 0 / 30 / 10 / 0 | – | – |" in table(made)


def test_a_judge_that_gave_no_verdict_has_no_figures() -> None:
    none = Judged("student", "teacher", None, {"wins": 0, "ties": 0, "losses": 0, "unread": 40}, None, None)
    made = told(none, unparsed=80)
    assert shown(made)[0]["cells"] == ["–", "0 / 0 / 0", "–"]
    assert any("in 80 of 80" in note for note in made["notes"])

"""The gate's three answers, what each figure is, and what CI reads of it."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from pydantic import ValidationError
from test_report import line, recipe
from typer.testing import CliRunner

from raystill import checks, live, recipe_file
from raystill.cli import app
from raystill.recipe import Bound, Recipe
from raystill.reporting import gate
from raystill.reporting.junit import junit
from raystill.reporting.table import summary_table
from raystill.stages.report import report


def figures(low: float, value: float, high: float, rows: int = 100, **student: Any) -> dict[str, Any]:
    """A report of one student, whose retention and accuracy are this."""
    speed = [{"concurrency": 8, "seconds_per_answer": 2.0}, {"concurrency": 1, "seconds_per_answer": 10.0}]
    own = {"accuracy": value, "accuracy_interval": [low, high], "cost_per_1000_answers": 1.0, "users": {"served": 20},
           "over": {"accuracy": rows}}  # fmt: skip
    return {
        "student": "student",
        "students": {
            "student": {"retention": value, "retention_interval": [low, high], "speedup": speed,
                        "smaller": {"weights_bytes": 20.0}, "over": {"retention": rows}, **student}
        },
        "models": {"teacher": {"cost_per_1000_answers": 4.0, "users": {"served": 2}}, "student": own},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("low", "value", "high", "bound", "verdict"),
    [
        (0.93, 0.95, 0.97, {"min": 0.92}, "pass"),
        (0.92, 0.95, 0.97, {"min": 0.92}, "pass"),
        (0.85, 0.88, 0.91, {"min": 0.92}, "fail"),
        (0.90, 0.95, 0.97, {"min": 0.92}, "inconclusive"),
        (0.10, 0.12, 0.14, {"max": 0.15}, "pass"),
        (0.16, 0.18, 0.20, {"max": 0.15}, "fail"),
        (0.13, 0.14, 0.16, {"max": 0.15}, "inconclusive"),
        (0.93, 0.95, 0.97, {"min": 0.90, "max": 0.96}, "inconclusive"),
        (0.97, 0.98, 0.99, {"min": 0.90, "max": 0.96}, "fail"),
    ],
)
def test_a_bound_is_met_or_missed_by_the_whole_interval(
    low: float, value: float, high: float, bound: dict[str, float], verdict: str
) -> None:
    for key in ("retention", "accuracy"):
        made = gate.decide("student", key, Bound.model_validate(bound), figures(low, value, high))
        assert (made.verdict, made.value, made.interval) == (verdict, value, [low, high])


def test_the_rows_that_would_decide_bring_the_intervals_end_to_the_bound() -> None:
    made = gate.decide("student", "retention", Bound(min=0.92), figures(0.89, 0.95, 0.97))
    assert made.rows_more == 300, "half of the lower half-width takes four times the rows"
    assert "300 more test rows" in made.why
    below = gate.decide("student", "retention", Bound(min=0.92), figures(0.88, 0.91, 0.93))
    assert below.rows_more == 300
    touching = gate.decide("student", "retention", Bound(min=0.92), figures(0.88, 0.90, 0.92))
    assert (touching.verdict, touching.rows_more) == ("inconclusive", 1)
    assert touching.why == "about 1 more test row would decide", "the interval's end lies on the bound, not the value"
    on_it = gate.decide("student", "retention", Bound(min=0.92), figures(0.90, 0.92, 0.94))
    assert on_it.rows_more is None and "no number of rows" in on_it.why


def test_few_rows_and_absent_figures_decide_nothing() -> None:
    few = gate.decide("student", "retention", Bound(min=0.92), figures(1.0, 1.0, 1.0, rows=12))
    assert (few.verdict, few.rows_more) == ("inconclusive", 18)
    for key, absent in (("bleu", {}), ("latency_ratio", {"speedup": []})):
        made = gate.decide("student", key, Bound(max=1), figures(0.9, 0.9, 0.9, **absent))
        assert made.verdict == "inconclusive" and "not measured" in made.why


def test_rows_without_a_reference_are_no_evidence(tmp_path: Path) -> None:
    made = line(tmp_path, referenced=5, asked=100, student=100)
    folder = Path(report(recipe(tmp_path, gate={"accuracy": {"min": 0.9}, "retention": {"min": 0.92}}), made))
    written = json.loads((folder / "report.json").read_text())
    assert (written["rows"], written["models"]["student"]["accuracy_interval"]) == (100, [1.0, 1.0])
    assert written["gate"]["verdict"] == "inconclusive"
    assert [d["rows_more"] for d in written["gate"]["decisions"]] == [25, 25]
    assert "over 5 rows" in summary_table(written)


def test_ratios_are_of_student_to_teacher_and_decided_by_their_value() -> None:
    made = {key: gate.decide("student", key, Bound(max=0.3), figures(0.9, 0.9, 0.9)) for key in gate.RATIOS}
    assert {key: d.value for key, d in made.items()} == pytest.approx(
        {"latency_ratio": 0.1, "memory_ratio": 0.05, "cost_ratio": 0.25, "users_ratio": 10.0}
    )
    assert [d.verdict for d in made.values()] == ["pass", "pass", "pass", "fail"]


def test_ci_reads_a_failure_and_what_is_undecided_as_skipped() -> None:
    bounds = {"retention": Bound(min=0.92), "accuracy": Bound(min=0.99), "memory_ratio": Bound(max=0.1)}
    found = gate.gate(bounds, figures(0.89, 0.95, 0.97))
    assert found is not None and found["verdict"] == "fail"
    suite = ElementTree.fromstring(junit("<r&>", found).encode())
    assert suite.attrib == {"name": "<r&>", "tests": "3", "errors": "0", "failures": "1", "skipped": "1"}
    by_name = {case.get("name"): [child.tag for child in case] for case in suite}
    assert by_name == {"retention >= 0.92": ["skipped"], "accuracy >= 0.99": ["failure"], "memory_ratio <= 0.1": []}


@pytest.mark.parametrize(
    ("bounds", "code"),
    [
        ({}, 0),
        ({"latency_ratio": {"max": 0.5}}, 0),
        ({"latency_ratio": {"max": 0.1}}, 6),
        ({"accuracy": {"min": 0.7}}, 7),
    ],
)
def test_a_report_ends_as_its_gate_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bounds: dict[str, Any], code: int
) -> None:
    whole: Recipe = recipe(tmp_path, gate=bounds)
    folder = Path(report(whole, line(tmp_path)))
    made = json.loads((folder / "report.json").read_text())
    page = (folder / "report.html").read_text()
    assert (folder / "gate.xml").exists() == bool(bounds) == ("gate:" in summary_table(made)) == ("The gate" in page)
    path = tmp_path / "small.yaml"
    path.write_text(json.dumps(whole.model_dump(mode="json", by_alias=True, exclude_unset=True)))
    monkeypatch.setattr(live, "run", lambda *_a, **_k: "done")
    assert CliRunner().invoke(app, ["report", str(path)]).exit_code == code


def test_figures_for_a_spreadsheet_and_a_pull_request(tmp_path: Path) -> None:
    folder = Path(report(recipe(tmp_path, gate={"accuracy": {"min": 0.7}}), line(tmp_path)))
    rows = [text.split(",") for text in (folder / "report.csv").read_text().splitlines()]
    assert rows[0] == ["model", "metric", "concurrency", "value", "low", "high"]
    by_key = {(model, metric, at): (value, low, high) for model, metric, at, value, low, high in rows[1:]}
    value, low, high = map(float, by_key["student", "accuracy", ""])
    assert value == 0.8 and low < 0.8 < high
    assert float(by_key["student", "seconds_per_answer", "1"][0]) == 0.25
    written = (folder / "report.md").read_text()
    assert written.startswith("# small") and "gate: INCONCLUSIVE" in written and "10 more" in written


def test_the_case_study_stands_beside_what_was_measured(tmp_path: Path) -> None:
    folder = Path(report(recipe(tmp_path), line(tmp_path)))
    made = {row["key"]: row for row in json.loads((folder / "report.json").read_text())["case_study"]}
    assert made["latency_ratio"]["measured"] == 0.25 and made["latency_ratio"]["published"] == 0.15
    assert made["users_ratio"]["measured"] is None
    assert "Beside a published case study" in (folder / "report.html").read_text()


def test_a_bound_on_what_the_report_will_not_have_is_found_offline(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "reference": "b"}\n')
    values = {
        "name": "r", "task": "conversation", "data": {"train": str(tmp_path / "rows.jsonl"), "prompt": "prompt",
        "reference": "reference"}, "teacher": {"kind": "endpoint", "endpoint": {"url": "https://h", "model": "m"}},
        "student": {"model": "s"}, "root": str(tmp_path),
        "gate": {"cost_ratio": {"max": 1}, "users_ratio": {"min": 1}, "memory_ratio": {"max": 1}, "recal": {"min": 1}},
    }  # fmt: skip
    path = tmp_path / "r.yaml"
    path.write_text(json.dumps(values))
    said = {p.what: p.fix for p in checks.check(recipe_file.load(str(path)), gpu=False)}
    assert "cost_ratio: a cost needs a price" in said
    assert {key for key in ("users_ratio", "memory_ratio") if any(w.startswith(f"{key}: the teacher") for w in said)} == {
        "users_ratio", "memory_ratio"
    }  # fmt: skip
    assert "retention" in said["task conversation has no metric 'recal'"]


@pytest.mark.parametrize("bound", [{}, {"min": 2, "max": 1}])
def test_a_bound_that_bounds_nothing_is_refused(tmp_path: Path, bound: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=r"needs min or max|no value meets both"):
        recipe(tmp_path, gate={"retention": bound})

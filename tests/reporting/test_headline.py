"""The sentence a manager reads: what got worse, or is not measured, must not sound like a gain."""

from typing import Any

from raystill.reporting.headline import four, sentence


def a_report(
    retention: float | None = 0.95, interval: tuple[float, float] = (0.93, 0.97), speedup: tuple[float, ...] = (4, 4)
) -> dict[str, Any]:
    """Teacher and student with a speed-up at concurrency 1 and 8."""
    models = {
        name: {
            "accuracy": accuracy,
            "parameters": parameters,
            "load": [{"concurrency": c, "seconds_per_answer": 1.0} for c in (1, 8)],
        }
        for name, accuracy, parameters in (("teacher", 0.8, 100), ("student", 0.8 * (retention or 1), 10))
    }
    return {
        "student": "student",
        "rows": 200,
        "models": models,
        "decided_by": "accuracy",
        "retention": retention,
        "retention_interval": interval,
        "speedup": [{"concurrency": c, "seconds_per_answer": ratio} for c, ratio in zip((1, 8), speedup, strict=True)],
        "smaller": {"parameters": 10.0, "weights_bytes": None},
        "cost": {"currency": "USD"},
    }


def read(report: dict[str, Any]) -> str:
    return sentence(report).replace("\u202f", " ")


def test_kept_faster_smaller() -> None:
    said = read(a_report())
    assert said == "The student keeps 95.0 % of the teacher’s accuracy, answers 4 times faster and is 10 times smaller."


def test_above_the_teacher_is_not_called_kept_unless_it_may_be_chance() -> None:
    above = a_report(1.2, (1.1, 1.3))
    assert read(above).startswith("The student is right more often than its teacher (96.0 % against 80.0 %)")
    assert four(above)[0].what == "of the teacher’s accuracy"
    assert read(a_report(1.02, (0.98, 1.06))).startswith("The student keeps 102.0 %")


def test_slower_under_load_is_said_beside_faster_alone() -> None:
    assert "answers 2 times faster (2 times slower with 8 requests at once)" in read(a_report(speedup=(2, 0.5)))
    assert "answers as fast (1.25 times slower with 8 requests at once)" in read(a_report(speedup=(1.01, 0.8)))


def test_a_ratio_within_noise_is_no_gain() -> None:
    speed = four(a_report(speedup=(1.015, 1.015)))[1]
    assert (speed.value, speed.what) == ("1×", "the same speed")


def test_worse_is_named() -> None:
    assert four(a_report(speedup=(0.5, 0.5)))[1].what == "slower"


def test_what_decides_is_named() -> None:
    report = a_report() | {"decided_by": "chrf"}
    for name, value in (("teacher", 60.0), ("student", 57.0)):
        report["models"][name] |= {"accuracy": None, "chrf": value}
    assert read(report).startswith("The student keeps 95.0 % of the teacher’s chrF,")
    assert four(report)[0].what == "of the teacher’s chrF kept"
    above = report | {"retention": 1.2, "retention_interval": (1.1, 1.3)}
    assert read(above).startswith("The student has a higher chrF than its teacher (57.0 against 60.0)")
    assert read(report | {"retention": None}).startswith("The student has a chrF of 57.0,")
    assert four(report | {"retention": None})[0].value == "57.0"

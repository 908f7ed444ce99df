"""Training curves: no spike lost, skipped and resumed steps marked, old curves still drawn."""

import re
import statistics

import pytest

from raystill.reporting import curves, figures
from raystill.reporting.findings import Point


def points(steps: int, skipped: int = 0, resumed: int = 0) -> list[Point]:
    return [
        Point(
            step=i,
            loss=None if i == skipped else 4 / i,
            validation_loss=4 / i if i == steps else None,
            learning_rate=2e-5 * (1 - i / steps),
            gradient_norm=None if i == skipped else 1.5,
            resumed=i == resumed,
        )
        for i in range(1, steps + 1)
    ]


def path(svg: str, kind: str) -> list[tuple[float, float]]:
    """Places of a drawn line."""
    (drawn,) = re.findall(rf'class="{kind}" d="([^"]*)"', svg)
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", drawn)]


def test_a_short_run_is_drawn_step_by_step() -> None:
    made = curves.curve(points(5))
    assert made is not None
    assert (made.steps, made.window, made.skipped, made.resumed) == (5, 1, [], [])
    assert path(made.loss.svg, "loss") == [(20 * i, round(40 * (1 - 1 / i), 2)) for i in range(1, 6)]
    assert 'class="raw"' not in made.loss.svg
    assert made.learning_rate is not None and made.learning_rate.top == pytest.approx(2e-5)
    assert made.gradient_norm is not None and (made.gradient_norm.top, made.gradient_norm.last) == (2.0, 1.5)


def test_a_skipped_step_and_a_resumed_one_are_marked_where_they_are() -> None:
    made = curves.curve(points(10, skipped=3, resumed=7))
    assert made is not None
    assert (made.skipped, made.resumed) == ([3], [7])
    assert path(made.loss.svg, "skipped")[0] == (30.0, 40.0)
    assert path(made.loss.svg, "resumed")[0] == (65.0, 0.0)
    assert len(path(made.loss.svg, "loss")) == 9


def test_a_long_run_is_smoothed_and_its_spike_stays() -> None:
    made = curves.curve([Point(i, 50.0 if i == 1234 else 1.0, None) for i in range(1, 5001)])
    assert made is not None
    assert made.window == 200
    assert min(y for _, y in path(made.loss.svg, "raw")) == pytest.approx(40 * (1 - 50 / made.loss.top), abs=0.01)
    assert min(y for _, y in path(made.loss.svg, "loss")) > 35
    assert len(path(made.loss.svg, "raw")) <= 2 * curves.GROUPS
    assert len(path(made.loss.svg, "loss")) <= curves.GROUPS
    assert (made.learning_rate, made.gradient_norm) == (None, None)


@pytest.mark.parametrize("window", [1, 2, 3, 8])
def test_smoothing_keeps_the_mean_and_does_not_move_a_line(window: int) -> None:
    line = [(float(i), float(i)) for i in range(50)]
    smoothed = curves.smooth(line, window)
    assert [s for s, _ in smoothed] == [s for s, _ in line]
    shift = 0.5 if window % 2 == 0 else 0.0
    assert [v for _, v in smoothed[10:40]] == pytest.approx([v + shift for _, v in line[10:40]])
    assert statistics.fmean(v for _, v in smoothed) == pytest.approx(24.5, abs=0.5)


def test_nothing_finite_is_no_curve() -> None:
    assert curves.curve([]) is None
    assert curves.curve([Point(1, None, None)]) is None


@pytest.mark.parametrize(("value", "text"), [(2e-5, "2e-5"), (1.26e-6, "1.3e-6"), (0.1, "0.1"), (3e-12, "3e-12")])
def test_a_learning_rate_has_an_exponent(value: float, text: str) -> None:
    assert figures.power(value) == text

"""A training over its steps, as inline SVG: loss, learning rate and gradient norm, with what went wrong marked.

Marks only, as in `charts`. The x axis runs from 0 to the last step, a y axis from 0 to its `top`.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from raystill.reporting.findings import Point

WIDTH, HEIGHT = 100.0, 40.0
GROUPS = 200
"""Drawn places of a long run: more than a screen shows, few enough for a small page."""
SMOOTHED = 25
"""The smooth line is the mean of a run's 25th part around each step: short runs are drawn as they are."""
Series = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Plot:
    """One drawn quantity, and its last value."""

    svg: Markup
    top: float
    last: float


@dataclass(frozen=True)
class Curve:
    """One training. `skipped` are steps that were not applied, `resumed` steps that followed a checkpoint's."""

    steps: int
    loss: Plot
    validation: float | None
    window: int
    """Steps behind each place of the smooth line; 1: there is only the raw one."""
    learning_rate: Plot | None
    gradient_norm: Plot | None
    skipped: Sequence[int]
    resumed: Sequence[int]


def curve(points: Sequence[Point]) -> Curve | None:
    """The curves of a training; None when nothing finite was noted."""
    train, validation = series(points, lambda p: p.loss), series(points, lambda p: p.validation_loss)
    if not train:
        return None
    steps = max(p.step for p in points)
    skipped = [p.step for p in points if p.loss is None]
    resumed = [p.step for p in points if p.resumed]
    window = max(1, len(train) // SMOOTHED)
    top = _round_up(max(y for _, y in [*train, *validation]))
    marks = Markup('<path class="resumed" d="{resumed}"/><path class="skipped" d="{skipped}"/>').format(
        resumed="".join(f"M{_x(s - 0.5, steps)} 0V40" for s in resumed),
        skipped="".join(f"M{_x(s, steps)} 40V36" for s in skipped),
    )
    raw = Markup('<path class="raw" d="{line}"/>').format(line=_line(spread(train), steps, top)) if window > 1 else ""
    drawn = Markup(
        '{raw}<path class="loss" d="{smooth}"/><path class="validation" d="{line}"/><path class="dots" d="{dots}"/>'
    ).format(
        raw=raw,
        smooth=_line(means(smooth(train, window)), steps, top),
        line=_line(validation, steps, top),
        dots="".join(f"M{_x(s, steps)} {_y(v, top)}h0" for s, v in validation),
    )
    return Curve(
        steps=steps,
        loss=Plot(_svg(marks + drawn), top, train[-1][1]),
        validation=validation[-1][1] if validation else None,
        window=window,
        learning_rate=_plot(series(points, lambda p: p.learning_rate), steps),
        gradient_norm=_plot(series(points, lambda p: p.gradient_norm), steps),
        skipped=skipped,
        resumed=resumed,
    )


def series(points: Sequence[Point], value: Callable[[Point], float | None]) -> Series:
    """(step, value) where there is one."""
    return [(p.step, found) for p in points if (found := value(p)) is not None]


def smooth(points: Series, window: int) -> Series:
    """Each value as the mean of the `window` around it, fewer at the ends."""
    before, after = (window - 1) // 2, window // 2 + 1
    values = [v for _, v in points]
    return [(s, statistics.fmean(values[max(0, i - before) : i + after])) for i, (s, _) in enumerate(points)]


def means(points: Series) -> Series:
    """At most GROUPS points: means of neighbours."""
    return [tuple(map(statistics.fmean, zip(*g, strict=True))) for g in _groups(points)]  # type: ignore[misc]


def spread(points: Series) -> Series:
    """At most two points for each of GROUPS neighbourhoods: the lowest and the highest, so that no spike is lost."""
    kept = [{min(g, key=lambda p: p[1]), max(g, key=lambda p: p[1])} for g in _groups(points)]
    return [p for both in kept for p in sorted(both)]


def _groups(points: Series) -> list[Series]:
    size = -(-len(points) // GROUPS)
    return [points[i : i + size] for i in range(0, len(points), size)]


def _plot(points: Series, steps: int) -> Plot | None:
    if not points:
        return None
    top = _round_up(max(v for _, v in points))
    line = Markup('<path class="loss" d="{line}"/>').format(line=_line(spread(points), steps, top))
    return Plot(_svg(line), top, points[-1][1])


def _svg(marks: Markup) -> Markup:
    return Markup(
        '<svg viewBox="0 0 100 40" preserveAspectRatio="none" aria-hidden="true">'
        '<path class="grid" d="M0 0H100M0 10H100M0 20H100M0 30H100"/><path class="axis" d="M0 40H100"/>{marks}</svg>'
    ).format(marks=marks)


def _line(points: Series, steps: int, top: float) -> str:
    return "".join(f"{'L' if i else 'M'}{_x(s, steps)} {_y(v, top)}" for i, (s, v) in enumerate(points))


def _x(step: float, steps: int) -> str:
    return f"{WIDTH * step / max(steps, 1):.2f}"


def _y(value: float, top: float) -> str:
    return f"{HEIGHT * (1 - value / top):.2f}"


def _round_up(value: float) -> float:
    """The next 1, 2, 4, 6 or 8 times a power of ten: each has a plain half."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next((m * power for m in (1, 2, 4, 6, 8, 10) if m * power >= value * (1 - 1e-9)), 10 * power)

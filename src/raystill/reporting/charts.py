"""Inline SVG that stretches with the page: marks only, so that all text stays HTML and keeps its size.

Every stroke is `non-scaling-stroke`; a round dot is a line of no length with round ends. Only numbers get into the markup.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from raystill.reporting.findings import Point

WIDTH, HEIGHT = 100.0, 40.0
LOG_SPAN = 8.0
"""Largest over smallest value from which an axis is logarithmic."""
POINTS = 200
"""Most points of a drawn curve: more than a screen shows, few enough for a small page."""


@dataclass(frozen=True)
class Curve:
    """A drawn training curve and the ends of its axes; y runs from 0 to `top`."""

    svg: Markup
    top: float
    steps: int
    last_loss: float | None
    last_validation: float | None


def bar(value: float | None, interval: Sequence[float] | None, kind: str) -> Markup:
    """A value on the axis from 0 to 1: a pale bar up to it, its interval as a line, a tick at the value itself."""
    if value is None:
        return Markup("")
    x = WIDTH * min(max(value, 0.0), 1.0)
    low, high = (WIDTH * min(max(v, 0.0), 1.0) for v in interval or (value, value))
    return Markup(
        '<svg class="bar {kind}" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="rail" width="100" height="10"/><rect class="fill" width="{x:.2f}" height="10"/>'
        '<path class="interval" d="M{low:.2f} 5H{high:.2f}"/><path class="tick" d="M{x:.2f} 0V10"/></svg>'
    ).format(kind=kind, x=x, low=low, high=high)


def curve(points: Sequence[Point]) -> Curve | None:
    """Training and validation loss over steps; None when nothing finite was noted."""
    train = [(p.step, p.loss) for p in points if p.loss is not None]
    validation = [(p.step, p.validation_loss) for p in points if p.validation_loss is not None]
    if not train:
        return None
    steps = max(p.step for p in points)
    top = _round_up(max(y for _, y in [*train, *validation]))
    svg = Markup(
        '<svg viewBox="0 0 100 40" preserveAspectRatio="none" aria-hidden="true">'
        '<path class="grid" d="M0 0H100M0 10H100M0 20H100M0 30H100"/><path class="axis" d="M0 40H100"/>'
        '<path class="loss" d="{train}"/><path class="validation" d="{line}"/><path class="dots" d="{dots}"/></svg>'
    ).format(
        train=_line(_thin(train), steps, top),
        line=_line(validation, steps, top),
        dots="".join(f"M{_x(s, steps)} {_y(v, top)}h0" for s, v in validation),
    )
    return Curve(svg, top, steps, train[-1][1], validation[-1][1] if validation else None)


@dataclass(frozen=True)
class Scatter:
    """A drawn set of points and the ends of its axes."""

    svg: Markup
    x: tuple[float, float]
    y: tuple[float, float]


def scatter(points: Sequence[tuple[float, float]], best: tuple[float, float]) -> Scatter:
    """Points with one of them marked; x is on a log scale where it spans more than LOG_SPAN."""
    xs, ys = zip(*points, strict=True)
    x, y = (min(xs), max(xs)), (min(ys), max(ys))
    scale = math.log if x[0] > 0 and x[1] / x[0] > LOG_SPAN else float

    def dot(point: tuple[float, float]) -> str:
        across = (scale(point[0]) - scale(x[0])) / ((scale(x[1]) - scale(x[0])) or 1.0)
        up = (point[1] - y[0]) / ((y[1] - y[0]) or 1.0)
        return f"M{WIDTH * across:.2f} {HEIGHT * (1 - up):.2f}h0"

    svg = Markup(
        '<svg viewBox="0 0 100 40" preserveAspectRatio="none" aria-hidden="true">'
        '<path class="grid" d="M0 0H100M0 20H100"/><path class="axis" d="M0 40H100"/>'
        '<path class="dots others" d="{others}"/><path class="dots" d="{best}"/></svg>'
    ).format(others="".join(dot(p) for p in points if p != best), best=dot(best))
    return Scatter(svg, x, y)


def _thin(points: Sequence[tuple[int, float]]) -> list[tuple[float, float]]:
    """At most POINTS points: means of neighbours."""
    size = math.ceil(len(points) / POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(s for s, _ in g) / len(g), sum(v for _, v in g) / len(g)) for g in groups]


def _line(points: Sequence[tuple[float, float]], steps: int, top: float) -> str:
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

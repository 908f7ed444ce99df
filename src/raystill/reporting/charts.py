"""Inline SVG that stretches with the page: marks only, so that all text stays HTML and keeps its size.

Every stroke is `non-scaling-stroke`; a round dot is a line of no length with round ends. Only numbers get into the markup.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 100.0, 40.0
LOG_SPAN = 8.0
"""Largest over smallest value from which an axis is logarithmic."""


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

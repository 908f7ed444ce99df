"""Inline SVG that stretches with the page: marks only, so that all text stays HTML and keeps its size.

Every stroke is `non-scaling-stroke`; a round dot is a line of no length with round ends. Only numbers get into the markup.
"""

from collections.abc import Sequence

from markupsafe import Markup

WIDTH = 100.0


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

"""Numbers as people read them: three figures at most, the unit beside them, a dash where there is none."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

NONE = "–"
THIN = "\u202f"


def percent(share: float | None) -> str:
    """A share of 1, with one decimal."""
    return NONE if share is None else f"{100 * share:.1f}{THIN}%"


def percents(interval: Sequence[float] | None) -> str:
    """An interval of shares, without the unit."""
    return NONE if interval is None else f"{100 * interval[0]:.1f}–{100 * interval[1]:.1f}"


def points(difference: float) -> str:
    """A difference of two shares, in percentage points with its sign."""
    return f"{100 * difference:+.1f}".replace("-", "−")


METRICS = {
    "agreement": "agreement with teacher",
    "bleu": "BLEU",
    "chrf": "chrF",
    "macro_f1": "macro F1",
    "rouge_1": "ROUGE-1",
    "rouge_2": "ROUGE-2",
    "rouge_l": "ROUGE-L",
    "token_f1": "token F1",
    "whole_conversations": "conversations without a wrong turn",
}
"""Names within a sentence that differ from a metric's own."""
IN_POINTS = ("bleu", "chrf")
"""0 to 100, as everybody quotes them; all others are shares."""
RECALL = "recall_at_"


def metric_name(name: str) -> str:
    """A metric's name within a sentence."""
    if name.startswith("f1:"):
        return f"F1 of {name.removeprefix('f1:')}"
    if name.startswith(RECALL):
        return f"recall at {percent(float(name.removeprefix(RECALL)))} false alarms"
    return METRICS.get(name, name.replace("_", " "))


def metric_title(name: str) -> str:
    """A metric's name where a line begins with it."""
    shown = metric_name(name)
    return shown if name == "chrf" else shown[:1].upper() + shown[1:]


def metric_names(models: Iterable[Mapping[str, Any]]) -> list[str]:
    """The metrics that some of these models have, in the report's order: those keys that have an interval beside them."""
    found = dict.fromkeys(key for model in models for key in model if f"{key}_interval" in model)
    return sorted(found, key=lambda name: name == "agreement")


def metric(name: str, value: float | None) -> str:
    """A metric's value."""
    if name in IN_POINTS:
        return NONE if value is None else f"{value:.1f}"
    return percent(value)


def metric_interval(name: str, interval: Sequence[float] | None) -> str:
    """A metric's interval, in the unit of `metric`."""
    if name in IN_POINTS and interval is not None:
        return f"{interval[0]:.1f}–{interval[1]:.1f}"
    return percents(interval)


def metric_points(name: str, difference: float) -> str:
    """A difference of two values of a metric, in points with its sign."""
    return points(difference / 100 if name in IN_POINTS else difference)


def seconds(value: float | None) -> str:
    """A time: milliseconds below one second, minutes and hours where seconds would be many."""
    if value is None:
        return NONE
    if value < 1:
        return f"{three(1000 * value)}{THIN}ms"
    if value < 120:
        return f"{three(value)}{THIN}s"
    if value < 7200:
        return f"{three(value / 60)}{THIN}min"
    return f"{three(value / 3600)}{THIN}h"


def size(value: float | None) -> str:
    """Bytes, decimal."""
    return scaled(value, [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")], "B")


def parameters(value: float | None) -> str:
    """A number of parameters."""
    return scaled(value, [(1e12, "trillion"), (1e9, "billion"), (1e6, "million"), (1e3, "thousand")], "")


def short(value: float | None) -> str:
    """A number of parameters for narrow places."""
    return scaled(value, [(1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")], "").replace(THIN, "")


def scaled(value: float | None, units: Sequence[tuple[float, str]], unit: str) -> str:
    """A number in the largest unit that it fills."""
    if not value:
        return NONE
    factor, name = next(((f, n) for f, n in units if value >= f), (1.0, unit))
    return f"{three(value / factor)}{THIN}{name}".rstrip(THIN)


def rate(value: float | None) -> str:
    """Something per second."""
    return NONE if value is None else three(value)


def times(value: float | None) -> str:
    """A ratio."""
    return NONE if value is None else f"{three(value)}×"


def money(value: float | None, currency: str) -> str:
    """An amount, exact enough to tell small ones apart."""
    if value is None:
        return NONE
    text = f"{value:,.2f}" if value >= 1 else f"{value:.2g}" if value >= 1e-4 else f"{value:.1e}"
    return f"{text} {currency}"


def count(value: float | None) -> str:
    """A whole number."""
    return NONE if value is None else f"{value:,.0f}"


def power(value: float) -> str:
    """Two significant figures, small ones with an exponent: as one writes a learning rate."""
    return f"{value:.2g}".replace("e-0", "e-")


def three(value: float) -> str:
    """Three significant figures, never as an exponent."""
    decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    text = f"{value:,.{decimals}f}"
    if 0 < abs(value) < 0.995:
        text = f"{value:.3g}" if abs(value) >= 1e-3 else f"{value:.6f}"
    return text.rstrip("0").rstrip(".") if "." in text else text

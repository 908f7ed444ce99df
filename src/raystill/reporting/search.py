"""What a search found, as one HTML page: each searched key against the loss, and every trial."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from raystill.reporting import charts, figures

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Trial:
    """One training with these values: its text loss at each validation, in nats a token, and whether it came to its end.

    `state` is whole, stopped (it fell behind others) or failed.
    """

    values: Mapping[str, Any]
    text_loss: Sequence[float]
    state: str
    error: str | None = None


def best(trials: Sequence[Trial]) -> Trial:
    """The whole trial whose text loss ended lowest."""
    return min((t for t in trials if t.state == "whole"), key=lambda t: t.text_loss[-1])


def named(values: Mapping[str, Any]) -> str:
    """Values as text."""
    return ", ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in values.items()
    )


def page(name: str, trials: Sequence[Trial], search: str) -> str:
    """The page, complete."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"three": figures.three, "count": figures.count}
    winner = best(trials)
    drawn = {key: charts.scatter(_points(trials, key), _at(winner, key)) for key in winner.values}
    return environment.get_template("search.html.jinja").render(
        name=name,
        trials=sorted(trials, key=lambda t: (t.state != "whole", t.text_loss[-1] if t.text_loss else float("inf"))),
        winner=winner,
        sentence=named(winner.values),
        search=search,
        drawn=drawn,
        keys=list(winner.values),
        css=Markup((HERE / "report.css").read_text()),
    )


def _points(trials: Sequence[Trial], key: str) -> list[tuple[float, float]]:
    """Value and last loss of each trial that came to its end."""
    return [_at(t, key) for t in trials if t.state == "whole"]


def _at(trial: Trial, key: str) -> tuple[float, float]:
    return float(trial.values[key]), trial.text_loss[-1]

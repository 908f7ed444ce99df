"""A judge's verdicts to numbers: win rates, scores, how much the place of an answer moved it, whom it agrees with.

A pair whose two orders disagree is a tie. A pair or a score that the judge never gave counts for nobody. Agreement is Cohen's
kappa, with the references where the task tells right from wrong, and with people's votes.
"""

import collections
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from raystill.metrics import mean
from raystill.metrics.compare import ACCURACY, Value, estimate
from raystill.metrics.kappa import kappa
from raystill.records import Metric, Verdict

GOOD = 4
"""Scores from here on say that an answer is right, where they are held against references."""
POINTS = {"model": 1.0, "tie": 0.5, "against": 0.0}


@dataclass(frozen=True)
class Vote:
    """What a person said of two models' answers to a held-out row: winner is "left", "right" or "tie"."""

    id: str
    left: str
    right: str
    winner: str


@dataclass(frozen=True)
class Judged:
    """A model beside another, or by itself. `rate` is its share of wins, half of the ties among them, or its mean score."""

    model: str
    against: str | None
    rate: Value | None
    counts: Mapping[str, int]
    """Wins, ties and losses, or how often each score; and `unread`, what the judge gave no verdict on."""
    moved: float | None
    """Share of the pairs that were asked whose verdict changed with the order."""
    first: float | None
    """Share of the verdicts for one side that went to the answer shown first; 0.5 is fair."""
    agrees: Mapping[str, Value] = field(default_factory=dict)
    """Kappa, with "references" and "people"."""


def judged(
    verdicts: Sequence[Verdict], per_row: Sequence[Metric], votes: Sequence[Vote], resamples: int
) -> list[Judged]:
    """One line per pair of models, or per model; `per_row` holds accuracy where the task tells it."""
    right = {(m.model, m.id): m.value for m in per_row if m.metric == ACCURACY}
    lines: dict[tuple[str, str | None], list[Verdict]] = {}
    for verdict in verdicts:
        lines.setdefault((verdict.model, verdict.against), []).append(verdict)
    return [
        _rated(model, rows, right, resamples)
        if against is None
        else _paired(model, against, rows, right, votes, resamples)
        for (model, against), rows in lines.items()
    ]


def _rated(model: str, rows: Sequence[Verdict], right: Mapping[tuple[str, str], float], resamples: int) -> Judged:
    scores = {row.id: int(row.said) for row in rows if row.said is not None}
    counts = dict(sorted(collections.Counter(str(score) for score in scores.values()).items()))
    told = [(str(score >= GOOD), str(right[model, i] >= 1)) for i, score in scores.items() if (model, i) in right]
    return Judged(
        model,
        None,
        estimate(mean(list(scores.values())), resamples),
        {**counts, "unread": len(rows) - len(scores)},
        None,
        None,
        _agreement({"references": told}, resamples),
    )


def _paired(
    model: str,
    against: str,
    rows: Sequence[Verdict],
    right: Mapping[tuple[str, str], float],
    votes: Sequence[Vote],
    resamples: int,
) -> Judged:
    orders: dict[str, list[str | None]] = {}
    for row in rows:
        orders.setdefault(row.id, []).append(row.said)
    outcomes = {i: said[0] if len(set(said)) == 1 else "tie" for i, said in orders.items() if said and None not in said}
    final = {i: said for i, said in outcomes.items() if said is not None}
    asked = {row.id for row in rows if row.asked} & final.keys()
    sided = [row.first == (row.said == "model") for row in rows if row.asked and row.said in ("model", "against")]
    counts = collections.Counter(final.values())
    by_reference = {
        i: _sign(right[model, i] - right[against, i]) for i in final if (model, i) in right and (against, i) in right
    }
    people = [(i, said) for i, said in _votes(votes, model, against) if i in final]
    return Judged(
        model,
        against,
        estimate(mean([POINTS[said] for said in final.values()]), resamples),
        {
            "wins": counts["model"],
            "ties": counts["tie"],
            "losses": counts["against"],
            "unread": len(orders) - len(final),
        },
        _share([len(set(orders[i])) > 1 for i in asked]),
        _share(sided),
        _agreement(
            {
                "references": [(final[i], said) for i, said in by_reference.items()],
                "people": [(final[i], said) for i, said in people],
            },
            resamples,
        ),
    )


def _votes(votes: Iterable[Vote], model: str, against: str) -> list[tuple[str, str]]:
    """People's votes on these two models, by prompt."""
    sides = {(model, against): ("model", "against"), (against, model): ("against", "model")}
    found = []
    for vote in votes:
        if named := sides.get((vote.left, vote.right)):
            found.append((vote.id, {"left": named[0], "right": named[1]}.get(vote.winner, "tie")))
    return found


def _sign(difference: float) -> str:
    return "model" if difference > 0 else "against" if difference < 0 else "tie"


def _share(found: Sequence[bool]) -> float | None:
    return sum(found) / len(found) if found else None


def _agreement(told: Mapping[str, Sequence[tuple[str, str]]], resamples: int) -> dict[str, Value]:
    agrees = {}
    for whom, pairs in told.items():
        if pairs and (found := estimate(kappa([a for a, _ in pairs], [b for _, b in pairs]), resamples)):
            agrees[whom] = found
    return agrees

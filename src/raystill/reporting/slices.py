"""Where a student is weak: the held-out rows by class, by length of the prompt and by columns that the recipe names.

A slice's figure is the share of right answers, and its difference to the teacher's is paired by row. Many slices are looked at
at once, so of twenty that are no weaker one seems so by its 95% interval: a slice is a place to look, not a verdict.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raystill.metrics import difference, mean
from raystill.metrics.bootstrap import interval
from raystill.metrics.compare import TEACHER
from raystill.reporting.findings import Said

MOST_CLASSES = 100
THIRDS = ("shortest third", "middle third", "longest third")
LOST = 3
"""Ids of rows that a slice or a regression names."""


def slices(said: Sequence[Said], student: str, columns: Sequence[str], resamples: int) -> list[dict[str, Any]]:
    """Weakest first, beside the teacher where there is one: by, value, rows, student, teacher, behind and its interval, and
    ids of rows that the student alone has wrong. Empty where nothing judges answers."""
    rows = [s for s in said if s.right.get(student) is not None]
    found = [
        _slice(by, value, of, student, resamples)
        for by, groups in _groups(rows, columns)
        if len(groups) > 1
        for value, of in groups.items()
    ]
    return sorted(found, key=lambda s: (s["behind"] if s["behind"] is not None else s["student"], -s["rows"]))


def regressions(said: Sequence[Said], student: str, baseline: str) -> dict[str, Any] | None:
    """Rows that the baseline has right and the student wrong: how many of how many, and the first ids. None where nothing
    judges answers."""
    rows = [s for s in said if s.right.get(student) is not None and s.right.get(baseline) is not None]
    lost = [s.id for s in rows if s.right[baseline] and not s.right[student]]
    return {"rows": len(rows), "lost": len(lost), "ids": lost[:LOST]} if rows else None


def _groups(rows: Sequence[Said], columns: Sequence[str]) -> Iterator[tuple[str, Mapping[str, Sequence[Said]]]]:
    classes = {s.reference for s in rows} - {None}
    if len(classes) <= min(MOST_CLASSES, len(rows) // 3):
        yield "class", _by(rows, [s.reference for s in rows])
    lengths = sorted(len(s.prompt) for s in rows)
    cuts = [lengths[len(rows) * i // 3] for i in (1, 2)] if rows else []
    yield "length", _by(rows, [THIRDS[sum(len(s.prompt) >= cut for cut in cuts)] for s in rows])
    for column in columns:
        yield column, _by(rows, [s.columns.get(column) for s in rows])


def _by(rows: Sequence[Said], values: Sequence[Any]) -> dict[str, list[Said]]:
    found = defaultdict[str, list[Said]](list)
    for row, value in zip(rows, values, strict=True):
        if value is not None:
            found[str(value)].append(row)
    return dict(found)


def _slice(by: str, value: str, rows: Sequence[Said], student: str, resamples: int) -> dict[str, Any]:
    own = [float(s.right[student] or 0) for s in rows]
    made = {"by": by, "value": value, "rows": len(rows), "student": sum(own) / len(rows)}
    theirs = [s.right.get(TEACHER) for s in rows]
    if None in theirs:
        return made | {"teacher": None, "behind": None, "behind_interval": None, "lost": []}
    beside = difference(mean(own), mean([float(right or 0) for right in theirs]))
    bounds = interval(beside, resamples)
    return made | {
        "teacher": sum(map(bool, theirs)) / len(rows),
        "behind": beside.point(),
        "behind_interval": list(bounds) if bounds else None,
        "lost": [s.id for s in rows if s.right[TEACHER] and not s.right[student]][:LOST],
    }

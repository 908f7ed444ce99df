"""Plans and findings as text for a terminal."""

from collections.abc import Callable

from raystill.compatibility import Pair, Row
from raystill.costs import Cost, Estimate
from raystill.doctor import Finding
from raystill.planning import Plan
from raystill.planning import resolved as rows_of
from raystill.recipe import Recipe
from raystill.reporting import figures
from raystill.workload import Span


def steps(plan: Plan) -> str:
    """One line per step, then every mistake with its fix."""
    width = max((len(s.label) for s in plan.steps), default=0)
    lines = [f"{s.label:<{width}}  {s.fingerprint:<12}  {s.state:<10}  {s.note}".rstrip() for s in plan.steps]
    if plan.needs or plan.learners:
        lines += ["", *plan.needs, *plan.learners]
    if plan.warnings:
        lines += ["", *(f"warning: {line}" for line in plan.warnings)]
    if plan.problems:
        count = len(plan.problems)
        lines += ["", f"{count} mistake{'s' if count > 1 else ''}:", *(str(p) for p in plan.problems)]
    return "\n".join(lines)


def estimate(of: Estimate) -> str:
    """What each stage takes with how that comes about, all together, what was assumed, and other choices."""
    what = "GPUs" if of.place.device.gpu else "cores"
    rows = [_cost(cost, what, of.currency) for cost in of.costs]
    whole = f"{_span(of.device_hours, lambda n: f'{n:.3g}')} {what[:-1]}-hours"
    rows.append(["together", whole, _tokens(of.tokens), _hours(of.hours), _money(of.money, of.currency), ""])
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    table = [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)).rstrip()
        + (f"\n    {row[5]}" if row[5] else "")
        for row in rows
    ]
    lines = ["", f"What is to do takes, on {of.place}:", *table]
    lines += ["", "Assumed:", *of.assumed] if of.assumed else []
    lines += ["", "Cheaper or faster:", *of.choices] if of.choices else []
    return "\n".join(lines)


def _cost(cost: Cost, what: str, currency: str) -> list[str]:
    devices = f"{cost.devices or 'no'} {what[:-1] if cost.devices == 1 else what}"
    return [cost.stage, devices, _tokens(cost.tokens), _hours(cost.hours), _money(cost.money, currency), cost.how]


def _span(of: Span, shown: Callable[[float], str]) -> str:
    low, likely, high = (shown(value) for value in of)
    return likely if low == high else f"{likely} ({low} to {high})"


def _tokens(of: Span) -> str:
    return f"{figures.short(of.likely)} tokens"


def _hours(of: Span) -> str:
    return _span(of, lambda hours: figures.seconds(3600 * hours).replace(figures.THIN, " "))


def _money(of: Span | None, currency: str) -> str:
    return (
        _span(of, lambda money: figures.count(money) if money >= 10 else figures.three(money)) + f" {currency}"
        if of
        else ""
    )


def resolved(recipe: Recipe) -> str:
    """Every key with its value and the reason for it."""
    rows = [(key, _short(value), why) for key, value, why in rows_of(recipe)]
    key_width, value_width = max(len(r[0]) for r in rows), max(len(r[1]) for r in rows)
    return "\n".join(f"{k:<{key_width}}  {v:<{value_width}}  # {why}" for k, v, why in rows) + "\n"


def finding(found: Finding) -> str:
    """One thing that `plan --check` looked at, with what it found."""
    word = "wrong" if found.problem else "note" if found.note else "ok"
    return "\n      ".join([f"{word:<5} {found.what}", *filter(None, (found.problem, found.note))])


def pair(of: Pair) -> str:
    """Teacher and student side by side, then what can be learnt from one another."""
    rows = [Row("", of.teacher, of.student), *of.rows]
    first, second = max(len(r.what) for r in rows), max(len(r.teacher) for r in rows)
    table = [f"{r.what:<{first}}  {r.teacher:<{second}}  {r.student}".rstrip() for r in rows]
    wide = max(len(t.kind) for t in of.transfers)
    allowed = [f"{t.possible:<7}  {t.kind:<{wide}}  {t.why}" for t in of.transfers]
    return "\n".join(["", *table, "", f"What {of.student} can learn from {of.teacher}:", *allowed])


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 48 else text[:45] + "..."

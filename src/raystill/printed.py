"""Plans and findings as text for a terminal."""

from raystill.compatibility import Pair, Row
from raystill.doctor import Finding
from raystill.planning import Plan
from raystill.planning import resolved as rows_of
from raystill.recipe import Recipe


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

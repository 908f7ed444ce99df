"""How many rows and tokens a recipe's data mean, as far as that can be told offline in a moment."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq

from raystill import chat, sources, storage
from raystill.artifacts import Manifest
from raystill.errors import RaystillError
from raystill.planning import Plan
from raystill.recipe import Recipe
from raystill.records import SPLITS
from raystill.stages import prepare

BYTES_PER_TOKEN = 4
"""Of English text."""
TEMPLATE_TOKENS = 20
"""What a chat template adds to a prompt."""
UNKNOWN_ROWS = 1000
UNKNOWN_PROMPT = 500.0
"""A prompt that cannot be read offline: some paragraphs."""
WHOLE_FILE, BEGINNING = 64 << 20, 1 << 20
"""Bytes of a file whose lines are counted; those of a larger one are estimated from so many at its beginning."""


class Span(NamedTuple):
    """A figure that is not known exactly."""

    low: float
    likely: float
    high: float

    @classmethod
    def exact(cls, value: float) -> "Span":
        """One that is."""
        return cls(value, value, value)

    def __add__(self, other: "Span") -> "Span":  # type: ignore[override]
        return Span(self.low + other.low, self.likely + other.likely, self.high + other.high)

    def plus(self, value: float) -> "Span":
        """All three, with so much more."""
        return self + Span.exact(value)

    def by(self, other: "Span") -> "Span":
        """The product of two."""
        return Span(self.low * other.low, self.likely * other.likely, self.high * other.high)

    def times(self, factor: float) -> "Span":
        """All three, scaled."""
        return Span(self.low * factor, self.likely * factor, self.high * factor)

    def within(self, factor: float) -> "Span":
        """Widened by this factor on both sides."""
        return Span(self.low / factor, self.likely, self.high * factor)


NOTHING = Span(0, 0, 0)


@dataclass(frozen=True)
class Workload:
    """Rows by split, tokens of a prompt and of an answer, and what of it was assumed."""

    rows: dict[str, float]
    prompt: float
    answer: Span
    assumed: tuple[str, ...]

    @property
    def asked(self) -> float:
        """Rows that a teacher is asked."""
        return self.rows["train"] + self.rows["validation"]


def workload(plan: Plan, recipe: Recipe) -> Workload:
    """What prepare has counted where it is done, else what the files say; what is remote is assumed."""
    teacher, assumed = recipe.teacher, list[str]()
    try:
        first = prepare.first_prompts(recipe.data)
    except RaystillError:
        first = []
    if first:
        read = sum(chat.view_bytes(p, teacher.system, teacher.examples) for p in first)
        prompt = read / len(first) / BYTES_PER_TOKEN + TEMPLATE_TOKENS
    else:
        prompt = UNKNOWN_PROMPT
        assumed.append(f"a prompt of {prompt:g} tokens, since the data cannot be read offline")
    turns = len(first) / len({p.conversation_id or p.id for p in first}) if first else 1.0
    answer = _answer(recipe, [p.reference for p in first if p.reference], assumed)
    return Workload(_rows(plan, recipe, turns, assumed), prompt, answer, tuple(assumed))


def _rows(plan: Plan, recipe: Recipe, turns: float, assumed: list[str]) -> dict[str, float]:
    """By split; `turns` is how many prompts a conversation makes."""
    own = next(step for step in plan.steps if step.label == "prepare")  # before that of a teacher's recipe
    if own.state == "done":
        counted: dict[str, float] = Manifest.load(own.url).counts["rows"]
        return counted
    data, rows = recipe.data, dict[str, float]()
    for split in SPLITS:
        given = getattr(data, split) or []
        found = [_lines(path) for path in ([given] if isinstance(given, str) else given)]
        rows[split] = sum(n for n in found if n is not None)
        if None in found:
            rows[split] = float(data.limit if split == "train" and data.limit else UNKNOWN_ROWS)
            why = "as data.limit says" if split == "train" and data.limit else "how many there are is not known offline"
            assumed.append(f"{rows[split]:,.0f} {split} rows: {why}")
    dealt = {split: getattr(data.split, split) for split in ("test", "validation") if not getattr(data, split)}
    rows |= {split: rows["train"] * share for split, share in dealt.items()}
    rows["train"] = min(rows["train"] * (1 - sum(dealt.values())), data.limit or rows["train"])
    return {split: count * turns for split, count in rows.items()}


def _lines(path: str) -> float | None:
    """Rows of one source; None where only reading all of it would tell."""
    if storage.is_s3(path) or sources.is_hub_id(path):
        return None
    try:
        files = [Path(file) for file in sources.find(path)]
    except RaystillError:
        return None
    counted = [_lines_of(file) for file in files]
    return None if None in counted else sum(n for n in counted if n is not None)


def _lines_of(file: Path) -> float | None:
    if file.suffix == ".parquet":
        return float(pq.read_metadata(file).num_rows)
    if file.suffix not in (".jsonl", ".ndjson", ".csv", ".tsv"):
        return None
    size, most = file.stat().st_size, WHOLE_FILE if file.stat().st_size <= WHOLE_FILE else BEGINNING
    with file.open("rb") as stream:
        lines = stream.read(most).count(b"\n")
    return lines * max(1.0, size / most) - (file.suffix in (".csv", ".tsv"))


def _answer(recipe: Recipe, references: list[str], assumed: list[str]) -> Span:
    """Tokens of an answer: as long as the data's own, or else half of what it may have."""
    most = float(recipe.teacher.sampling.max_tokens)
    if references:
        mean = min(most, sum(len(r.encode()) for r in references) / len(references) / BYTES_PER_TOKEN + 1)
        assumed.append(f"answers as long as the data's own, {mean:.0f} tokens; from half of it to twice")
        return Span(mean / 2, mean, min(most, 2 * mean))
    assumed.append(f"answers of half of sampling.max_tokens, {most / 2:.0f} tokens; from an eighth to all of it")
    return Span(most / 8, most / 2, most)

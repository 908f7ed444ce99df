"""What a report is made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from raystill.metrics.compare import Comparison
from raystill.metrics.judged import Judged
from raystill.recipe import Recipe
from raystill.records import Load, SuiteScore

Role = Literal["teacher", "baseline", "student"]


@dataclass(frozen=True)
class Model:
    """One compared model. `source` is how the recipe names it; sizes are None when its weights cannot be looked into.

    `paid_per_answer` is what an endpoint asked for its held-out answers, `paid_per_million` for a million of their tokens, in
    the currency of 'prices'.
    """

    name: str
    role: Role
    source: str
    parameters: int | None
    weights_bytes: int | None
    loads: Sequence[Load]
    paid_per_answer: float | None = None
    paid_per_million: float | None = None


@dataclass(frozen=True)
class Made:
    """One finished step: what it counted and how long it took, in seconds."""

    label: str
    stage: str
    fingerprint: str
    started_at: str | None
    elapsed_s: float | None
    counts: Mapping[str, Any]


@dataclass(frozen=True)
class Point:
    """One optimizer step of a training curve; a loss that was not finite or not applied is None, as is what was not noted."""

    step: int
    loss: float | None
    validation_loss: float | None
    learning_rate: float | None = None
    gradient_norm: float | None = None
    resumed: bool = False
    """Whether it is the first one after a checkpoint."""
    tokens_per_s: float | None = None
    supervised_tokens_per_s: float | None = None
    mfu: float | None = None
    memory_bytes: float | None = None


@dataclass(frozen=True)
class Rolled:
    """One on-policy round: how many answers the student wrote and how many were cut off, and how far it came from who wrote.

    `steps` are the optimizer steps between the two at the end; `drift` as `stages.train` gives it; `consistent` is the share
    of what it learnt first that the scoring teacher wrote.
    """

    answers: int
    truncated: int
    steps: int
    drift: float | None
    consistent: float
    validation_loss: float | None


@dataclass(frozen=True)
class Said:
    """What the models said to one prompt, and whether it was right; None where nothing can judge it."""

    id: str
    prompt: str
    reference: str | None
    answers: Mapping[str, str]
    right: Mapping[str, bool | None]
    columns: Mapping[str, Any] = field(default_factory=dict)
    """The data's own."""


@dataclass(frozen=True)
class Judgement:
    """What a judge said: who it is, and which of the compared models it is itself, if one."""

    by: str
    compared: str | None
    mode: str
    lines: Sequence[Judged]
    counts: Mapping[str, Any]


@dataclass(frozen=True)
class Findings:
    """All of it. Models come in the order in which they are shown."""

    recipe: Recipe
    made_at: str
    comparison: Comparison
    models: Sequence[Model]
    steps: Sequence[Made]
    curves: Mapping[str, Sequence[Point]]
    rounds: Mapping[str, Sequence[Rolled]]
    said: Sequence[Said]
    provenance: Mapping[str, Any]
    judgement: Judgement | None = None
    suites: Mapping[str, Comparison | Sequence[SuiteScore]] = field(default_factory=dict)

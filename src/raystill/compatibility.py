"""What a teacher and a student have in common, and which kinds of transfer that allows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from raystill.shapes import Shape

Possible = Literal["yes", "no", "unknown"]
UNKNOWN = "?"
TERMS = {
    "deepseek": "a model trained on its answers carries its use restrictions (attachment A) on to whoever gets it",
    "llama2": "its answers may not improve another language model (1.b.v)",
    "llama3": "its answers may not improve another language model (1.b.v)",
    "llama3.1": "a model trained on its answers must be called Llama-… (1.b.i)",
    "llama3.2": "a model trained on its answers must be called Llama-… (1.b.i)",
    "llama3.3": "a model trained on its answers must be called Llama-… (1.b.i)",
}
"""What licences say of training on answers; for the Llama community licences with the clause."""

VENDORS = {
    "api.openai.com": "its terms forbid to develop models that compete with OpenAI from its answers",
    "api.anthropic.com": "its commercial terms forbid to build competing models from its answers",
}
"""What the terms of those that answer by URL say of it."""


@dataclass(frozen=True)
class Side:
    """One model of a pair; what is not at hand is None. `tokens` are its tokenizer's tokens with their ids."""

    name: str
    model: str | None
    weights: bool
    """False where it answers behind a URL or from the data: nothing but text comes from it."""
    shape: Shape | None = None
    tokens: dict[str, int] | None = None
    tokenizer: str | None = None
    template: str | None = None
    """Fingerprints."""


@dataclass(frozen=True)
class Row:
    """One property on both sides."""

    what: str
    teacher: str
    student: str


@dataclass(frozen=True)
class Transfer:
    """One way to learn, whether this pair allows it, and why."""

    kind: str
    possible: Possible
    why: str


@dataclass(frozen=True)
class Pair:
    """The table of a teacher and a student."""

    teacher: str
    student: str
    rows: list[Row]
    transfers: list[Transfer]


def pair(teacher: Side, student: Side) -> Pair:
    """Compare the two."""
    return Pair(teacher.name, student.name, _rows(teacher, student), _transfers(teacher, student))


def _rows(teacher: Side, student: Side) -> list[Row]:
    def of_shape(show: Callable[[Shape], str]) -> tuple[str, str]:
        theirs, ours = (show(s.shape) if s.shape else UNKNOWN for s in (teacher, student))
        return theirs, ours

    model = Row("model", teacher.model or UNKNOWN, student.model or UNKNOWN)
    terms = TERMS.get(teacher.shape.licence or "", "") if teacher.shape else ""
    return [
        model,
        Row("tokenizer", _tokens(teacher), _same(_tokens(student), teacher.tokenizer, student.tokenizer)),
        Row("vocabulary", *of_shape(lambda s: f"{s.vocabulary:,}")),
        Row("template", teacher.template or UNKNOWN, _same(student.template, teacher.template, student.template)),
        Row("context", *of_shape(lambda s: f"{s.context:,}")),
        Row("layers", *of_shape(lambda s: f"{s.layers}")),
        Row("width", *of_shape(lambda s: f"{s.hidden:,}")),
        Row("heads", *of_shape(lambda s: f"{s.heads} of {s.head}")),
        Row("parameters", *of_shape(lambda s: s.size)),
        Row("licence", *of_shape(lambda s: s.licence or "not stated")),
        *([Row("", terms, "")] if terms else []),
    ]


def _tokens(side: Side) -> str:
    return f"{len(side.tokens):,} tokens" if side.tokens else UNKNOWN


def _same(value: str | None, theirs: str | None, ours: str | None) -> str:
    return "the same" if theirs and theirs == ours else value or UNKNOWN


def _transfers(teacher: Side, student: Side) -> list[Transfer]:
    text = Transfer("text", "yes", "always: an answer is text")
    kinds = ("soft targets", "soft targets by bytes", "hidden layers", "attention")
    if not teacher.weights:
        why = "only text comes from a teacher without weights here"
        return [text, *(Transfer(kind, "no", why) for kind in kinds)]
    if teacher.tokenizer is None or student.tokenizer is None:
        missing = " and ".join(s.name for s in (teacher, student) if s.tokenizer is None)
        return [text, *(Transfer(kind, "unknown", f"the tokenizer of {missing} is not at hand") for kind in kinds)]
    if teacher.tokenizer != student.tokenizer:
        apart = "positions of two tokenizers do not line up"
        return [
            text,
            Transfer("soft targets", "no", f"two tokenizers{_shared(teacher, student)}"),
            Transfer("soft targets by bytes", "yes", "where both cut the text alike; text alone elsewhere"),
            Transfer("hidden layers", "no", apart),
            Transfer("attention", "no", apart),
        ]
    return [
        text,
        Transfer("soft targets", "yes", "one tokenizer, token by token"),
        Transfer("soft targets by bytes", "no", "not needed with one tokenizer"),
        *_inside(teacher.shape, student.shape),
    ]


def _inside(teacher: Shape | None, student: Shape | None) -> list[Transfer]:
    """What is taken from inside a teacher that runs beside the student."""
    if teacher is None or student is None:
        why = "the config.json of both must be at hand"
        return [Transfer("hidden layers", "unknown", why), Transfer("attention", "unknown", why)]
    width = (
        f"both {student.hidden:,} wide, no projection"
        if teacher.hidden == student.hidden
        else f"with a learnt projection from {student.hidden:,} to {teacher.hidden:,}"
    )
    heads = f"{student.heads} heads against {teacher.heads}: averaged over heads, or value relations"
    return [
        Transfer("hidden layers", "yes", f"{width}; {student.layers} layers against {teacher.layers}"),
        Transfer("attention", "yes", f"{heads}; in packed rows"),
    ]


def _shared(teacher: Side, student: Side) -> str:
    """How many of the student's tokens the teacher has too."""
    if not (teacher.tokens and student.tokens):
        return ""
    both = len(teacher.tokens.keys() & student.tokens.keys())
    return f"; {both / len(student.tokens):.0%} of the student's tokens are also the teacher's"

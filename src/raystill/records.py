"""The rows that stages hand to each other: one frozen dataclass each, its Arrow schema derived from it.

T = completion tokens including the stop token when finish_reason is "stop". Times in seconds, sizes in bytes.
A row is keyed by (id, teacher, sample_index) or, for answers, by (id, model).
"""

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar, Literal, TypeVar

import pyarrow as pa

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
Ids = typing.NewType("Ids", list)  # type: ignore[type-arg]
"""Token ids, stored as int32[T]."""

Row = TypeVar("Row", bound="Record")


@dataclass(frozen=True)
class Record:
    """Base of all rows. SCHEMA changes whenever a field does."""

    SCHEMA: ClassVar[int]


@dataclass(frozen=True)
class Message:
    """One turn of a conversation. tool_calls is a JSON string."""

    role: str
    content: str
    reasoning: str | None = None
    tool_calls: str | None = None
    tool_call_id: str | None = None


@dataclass(frozen=True)
class Prompt(Record):
    """What is asked: the student's view, with the data's own columns beside it (JSON strings)."""

    SCHEMA: ClassVar[int] = 1
    id: str
    conversation_id: str | None
    messages: list[Message]
    tools: str | None
    task: str
    source: str
    split: str
    reference: str | None
    columns: str


@dataclass(frozen=True)
class Generation(Prompt):
    """What a teacher answered. finish_reason is "stop", "length", "tool_calls" or "error"; error says why in that case.

    tool_calls is a JSON string. transient marks an error that another run may not meet. cost is what a paid endpoint asked
    for the row, failed attempts included, in the currency of the recipe's prices.
    """

    SCHEMA: ClassVar[int] = 2
    sample_index: int = 0
    teacher: str = ""
    text: str = ""
    reasoning: str | None = None
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    output_tokens: int = 0
    completion_ids: Ids = field(default_factory=lambda: Ids([]))
    elapsed_s: float = 0.0
    error: str | None = None
    tool_calls: str | None = None
    cost: float = 0.0
    transient: bool = False


@dataclass(frozen=True)
class Example(Record):
    """What the student learns from: messages end with the assistant turn; loss_turns are the indices that carry loss.

    completion_ids are the last turn's ids in the tokenizer of whoever wrote them (its fingerprint is in the manifest),
    empty when nobody tokenised it.
    """

    SCHEMA: ClassVar[int] = 1
    id: str
    teacher: str
    sample_index: int
    split: str
    messages: list[Message]
    tools: str | None
    loss_turns: list[int]
    completion_ids: Ids
    weight: float = 1.0


@dataclass(frozen=True)
class Targets(Record):
    """What a teacher thinks at each of the T completion_ids, in its own vocabulary.

    `packed` is read by `targets.unpack_topk` or `unpack_sampled`; the manifest says which, and at what temperature.
    """

    SCHEMA: ClassVar[int] = 1
    id: str
    teacher: str
    sample_index: int
    split: str
    completion_ids: Ids
    packed: bytes


@dataclass(frozen=True)
class Answer(Record):
    """What a model said to one prompt. ttft_s is the time to the first token, 0 where only the whole was timed."""

    SCHEMA: ClassVar[int] = 1
    id: str
    model: str
    split: str
    text: str
    finish_reason: str
    prompt_tokens: int
    output_tokens: int
    ttft_s: float
    elapsed_s: float
    error: str | None = None


@dataclass(frozen=True)
class Sure(Record):
    """What a model said to one prompt, and the mean probability that it gave its tokens."""

    SCHEMA: ClassVar[int] = 1
    id: str
    text: str
    probability: float


@dataclass(frozen=True)
class Load(Record):
    """One measurement of a served model under a stated load. Times are medians over requests unless named p95 or p99.

    kv_bytes is what the cache of that load's longest rows takes at once. energy_j is what `energy_of` names used meanwhile:
    the whole machine, whatever else runs on it. None is what nothing told.
    """

    SCHEMA: ClassVar[int] = 2
    model: str
    hardware: str
    concurrency: int
    requests: int
    errors: int
    elapsed_s: float
    ttft_s: float
    ttft_p95_s: float
    time_per_output_token_s: float
    seconds_per_answer: float
    seconds_per_answer_p95: float
    output_tokens_per_s: float
    answers_per_s: float
    weights_bytes: int
    peak_memory_bytes: int
    ttft_p99_s: float = 0.0
    time_per_output_token_p95_s: float = 0.0
    time_per_output_token_p99_s: float = 0.0
    seconds_per_answer_p99: float = 0.0
    kv_bytes_per_token: float | None = None
    kv_bytes: float | None = None
    energy_j: float | None = None
    energy_of: str | None = None


@dataclass(frozen=True)
class Verdict(Record):
    """What a judge said of a model's answer to one prompt: beside another's (`against`), shown first or second, or by itself.

    said is "model", "against" or "tie", or a score from "1" to "5"; None where it was nothing that can be read, which
    `error` says of a request that failed. Not asked were answers that are equal.
    """

    SCHEMA: ClassVar[int] = 1
    id: str
    model: str
    against: str | None
    first: bool
    said: str | None
    asked: bool = True
    error: str | None = None


@dataclass(frozen=True)
class SuiteScore(Record):
    """One metric of one lm-eval task, with the standard error that lm-eval gives and the number of rows it is over."""

    SCHEMA: ClassVar[int] = 1
    model: str
    task: str
    metric: str
    value: float
    stderr: float | None
    rows: int


@dataclass(frozen=True)
class Metric(Record):
    """One value of one metric for one answered row."""

    SCHEMA: ClassVar[int] = 1
    task: str
    id: str
    model: str
    metric: str
    value: float


_SCALARS: dict[Any, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    bytes: pa.binary(),
    Ids: pa.list_(pa.int32()),
}


def _arrow_type(hint: Any) -> tuple[pa.DataType, bool]:
    """Arrow type of an annotation, and whether it may be null."""
    if hint in _SCALARS:
        return _SCALARS[hint], False
    if typing.get_origin(hint) is types.UnionType:
        (inner,) = (a for a in typing.get_args(hint) if a is not type(None))
        return _arrow_type(inner)[0], True
    if typing.get_origin(hint) is list:
        return pa.list_(_arrow_type(typing.get_args(hint)[0])[0]), False
    if dataclasses.is_dataclass(hint):
        return pa.struct(_fields(hint)), False
    raise TypeError(f"no Arrow type for {hint!r}")


def _fields(row: Any) -> list[pa.Field]:
    hints = typing.get_type_hints(row)
    named = ((f.name, _arrow_type(hints[f.name])) for f in dataclasses.fields(row))
    return [pa.field(name, kind, nullable=nullable) for name, (kind, nullable) in named]


@cache
def schema(row: type[Record]) -> pa.Schema:
    """The Arrow schema of a row type; its metadata carries the type's name and SCHEMA number."""
    return pa.schema(_fields(row), metadata={"raystill": f"{row.__name__}/{row.SCHEMA}"})


def to_table(row: type[Row], rows: Iterable[Row]) -> pa.Table:
    """Rows of one type as an Arrow table of exactly its schema."""
    return pa.Table.from_pylist([_values(r) for r in rows], schema=schema(row))  # type: ignore[arg-type]


def _values(row: Record) -> dict[str, Any]:
    """A row as a mapping. `dataclasses.asdict` copies deeply and takes five times as long."""
    values = dict(vars(row))
    if "messages" in values:
        values["messages"] = [vars(m) for m in values["messages"]]
    return values


def from_mapping(row: type[Row], values: Mapping[str, Any]) -> Row:
    """One row from a mapping, such as a line of `pa.Table.to_pylist()`."""
    values = dict(values)
    if values.get("messages") and isinstance(values["messages"][0], Mapping):
        values["messages"] = [Message(**m) for m in values["messages"]]
    return row(**values)


def from_table(row: type[Row], table: pa.Table) -> list[Row]:
    """All rows of an Arrow table, typed."""
    return [from_mapping(row, values) for values in table.to_pylist()]

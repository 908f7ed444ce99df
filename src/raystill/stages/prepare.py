"""prepare: the user's rows become prompts, dealt to train, validation and test, in units of about 256.

A row is a conversation (`messages`, or ShareGPT's `conversations`), a column, or a template over columns. One that
cannot be read is rejected and counted; equal rows collapse into one; a train row that asks exactly what a held-out row
asks is dropped. Held-out files are read first, so they keep what they share with train. Nothing here knows models:
messages are the data's own. Prompts are held in memory once, until they are written.
"""

import bisect
import collections
import dataclasses
import datetime
import decimal
import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from raystill import artifacts, conversations, sources, storage, templates
from raystill.artifacts import File, Outcome
from raystill.context import Context
from raystill.conversations import NotAConversation
from raystill.errors import DataError, Interrupted, RecipeError
from raystill.formats import Found, Rejected
from raystill.recipe import Data
from raystill.records import SPLITS, Message, Prompt, Split
from raystill.templates import Template, Unrenderable

VERSION = 1
PROMPT_COLUMNS = ("messages", "conversations", "prompt", "text", "question")
"""Where a prompt is looked for when the recipe does not say."""
UNIT_ROWS = 384
"""Most rows of a unit. Units halve when they grow above it, so they hold 192-384: minutes of a teacher's work, which is
what a fault costs, and enough rows to keep its batch full."""
FIRST_ROWS = 200
"""Rows looked at before a column is said to be missing: optional keys are often absent from single rows."""
HASH_BITS = 64
WRITERS = 8
"""Parts written at once: on S3 each waits tens of milliseconds for its answer."""
REPORT_EVERY = 1000
"""Rows between two signs of life: a few hundredths of a second."""


def prepare(data: Data, task: str, context: Context) -> Outcome:
    """Prompts in Parquet units by split, and `rejected/<split>.jsonl` for the rows of each file group left out.

    Without data.train they are held-out rows alone. Raises DataError when nothing is left to learn from, when a named
    column does not exist, or when more rows than max_error_rate are bad; RecipeError for a template that cannot run.
    """
    intake = _Intake(data, task)
    context.progress.start(context.label, None, "rows")
    for split in reversed(SPLITS):
        if paths := getattr(data, split):
            for count, bad in intake.take(split, paths):
                context.progress.advance(count, rejects=bad)
                if context.stopping.is_set():
                    raise Interrupted("stopped while reading the data; nothing is half-written: run the same command")
    files = _write_rejected(intake.rejected, context.url)
    _check_error_rate(intake, context)
    kept = intake.prompts
    leaks = intake.leaks + _drop_leaks(kept)
    beyond_limit = _limit(kept, data.limit)
    if data.train and not kept["train"]:
        raise DataError(
            f"nothing to learn from: of {intake.read} rows none is left for train ({data.train}), "
            f"{len(kept['validation'])} went to validation and {len(kept['test'])} to test; "
            "give more rows, or smaller shares under data.split"
        )
    for split in ("validation", "test"):
        if not kept[split] and (getattr(data, split) or getattr(data.split, split)):
            context.progress.say(
                f"no {split} rows: the data has too few; give more, or a file: data: {{{split}: FILE}}"
            )
    counts = {
        "read": intake.read,
        "rows": {split: len(rows) for split, rows in kept.items()},
        "rejected": dict(Counter(r.reason for group in intake.rejected.values() for r in group).most_common()),
        "duplicates": intake.duplicates,
        "leaks": leaks,
        "beyond_limit": beyond_limit,
    }
    facts = {"references": {split: sum(p.reference is not None for p in rows) for split, rows in kept.items()}}
    for split in SPLITS:
        files += _write_units(split, kept.pop(split), context)
    return Outcome("prompts", files, Prompt.SCHEMA, counts, facts)


def check_columns(data: Data) -> None:
    """What can be known of `data` before any run: its templates, and its columns in the first rows of local files.

    Raises RecipeError or DataError. Files that are missing or remote are not looked at.
    """
    _Mapping.of(data, ())
    for split in SPLITS:
        given = getattr(data, split) or []
        for path in [given] if isinstance(given, str) else given:
            if _is_here(path):
                _mapped(data, itertools.islice(sources.read(path, split, data.max_row_bytes), FIRST_ROWS))


def first_prompts(data: Data) -> list[Prompt]:
    """The prompts of the first rows of local files, as `prepare` makes them. Raises as `check_columns` does."""
    intake = _Intake(data, "")
    for split in reversed(SPLITS):
        given = getattr(data, split) or []
        for path in [given] if isinstance(given, str) else given:
            if _is_here(path):
                collections.deque(intake.take(split, path, FIRST_ROWS), maxlen=0)
    return [prompt for split in SPLITS for prompt in intake.prompts[split]]


def _is_here(path: str) -> bool:
    if storage.is_s3(path) or sources.is_hub_id(path):
        return False
    try:
        return bool(sources.find(path))
    except DataError:
        return False


def units(prompts: Iterable[Prompt]) -> Iterator[list[Prompt]]:
    """Prompts in order of the hash of their ids, cut into units of at most UNIT_ROWS.

    A unit is all rows whose hash begins with the same bits, as few bits as the size allows. So a row that is added or
    changed touches the unit it falls into and no other.
    """
    rows = sorted((_hash("order", p.id), p.id, p) for p in prompts)
    yield from _halved([h for h, _, _ in rows], [p for _, _, p in rows], 0, HASH_BITS)


def _halved(hashes: Sequence[int], rows: list[Prompt], low: int, bits: int) -> Iterator[list[Prompt]]:
    if len(rows) <= UNIT_ROWS or bits == 0:
        if rows:
            yield rows
        return
    middle = low + (1 << (bits - 1))
    cut = bisect.bisect_left(hashes, middle)
    yield from _halved(hashes[:cut], rows[:cut], low, bits - 1)
    yield from _halved(hashes[cut:], rows[cut:], middle, bits - 1)


def _hash(purpose: str, key: str) -> int:
    """64 bits; each purpose has its own, so being in train says nothing about being within the limit."""
    return int.from_bytes(hashlib.blake2b(f"{purpose}:{key}".encode(), digest_size=HASH_BITS // 8).digest())


class _Unusable(ValueError):
    """Why a row is rejected; never its content."""


@dataclass(frozen=True)
class _Mapping:
    """Which columns or templates a row is read by."""

    prompt: str | Template
    reference: str | Template | None
    id: str | None
    by: str | None

    @classmethod
    def of(cls, data: Data, columns: Iterable[str]) -> "_Mapping":
        """As the recipe says; where it says nothing of the prompt, by the columns that there are."""
        if data.turns == "each" and data.reference:
            raise RecipeError(
                "data.reference cannot stand beside `turns: each`, which takes every assistant turn as the answer to "
                "what was said before it; remove one of the two"
            )
        there = set(columns)
        prompt = data.prompt or next((c for c in PROMPT_COLUMNS if c in there), "")
        return cls(
            templates.parse(prompt, "data.prompt") if templates.is_template(prompt) else prompt,
            templates.parse(data.reference, "data.reference")
            if data.reference and templates.is_template(data.reference)
            else data.reference,
            data.id,
            data.split.by,
        )

    def wanted(self) -> dict[str, str]:
        """Every column that is named, and the recipe's key that names it."""
        named: dict[str, str] = {}
        for key, value in (
            ("data.prompt", self.prompt),
            ("data.reference", self.reference),
            ("data.id", self.id),
            ("data.split.by", self.by),
        ):
            columns = value.columns if isinstance(value, Template) else {value} if value else ()
            named |= dict.fromkeys(sorted(columns), key)
        return named


def _mapped(data: Data, rows: Iterable[Found | Rejected]) -> _Mapping:
    """The mapping, checked against the columns of some rows."""
    found = [row.values for row in rows if isinstance(row, Found)]
    there = list(dict.fromkeys(itertools.chain.from_iterable(found)))
    mapping = _Mapping.of(data, there)
    if not found:
        return mapping
    if not mapping.prompt:
        raise DataError(
            f"no column is called {', '.join(PROMPT_COLUMNS)}, so say which holds the prompt; there are "
            f"{', '.join(there)}: data: {{prompt: {there[0]}}}"
        )
    for column, key in mapping.wanted().items():
        if column not in there:
            raise DataError(f"{key} names the column '{column}', which does not exist; there are {', '.join(there)}")
    return mapping


class _Intake:
    """Rows taken in so far: prompts by split, what was seen before, and what was left out."""

    def __init__(self, data: Data, task: str) -> None:
        self.data, self.task = data, task
        self.prompts: dict[Split, list[Prompt]] = {split: [] for split in SPLITS}
        self.rejected: dict[Split, list[Rejected]] = {split: [] for split in SPLITS}
        self.seen: dict[str, tuple[bytes, Split]] = {}
        self.read = self.duplicates = self.leaks = 0

    def take(self, group: Split, paths: str | list[str], most: int | None = None) -> Iterator[tuple[int, int]]:
        """Read the files given for one split; yields, every REPORT_EVERY rows, how many were read and rejected."""
        rows = itertools.islice(sources.read(paths, group, self.data.max_row_bytes), most)
        first = list(itertools.islice(rows, FIRST_ROWS))
        mapping = _mapped(self.data, first)
        rejected = self.rejected[group]
        before, bad_before = self.read, 0
        for row in itertools.chain(first, rows):
            self.read += 1
            if isinstance(row, Rejected):
                rejected.append(row)
            else:
                try:
                    self._add(row, group, mapping)
                except (_Unusable, NotAConversation, Unrenderable) as e:
                    rejected.append(Rejected(row.file, row.position, str(e)))
            if self.read - before == REPORT_EVERY:
                yield self.read - before, len(rejected) - bad_before
                before, bad_before = self.read, len(rejected)
        yield self.read - before, len(rejected) - bad_before

    def _add(self, row: Found, group: Split, mapping: _Mapping) -> None:
        content = _canonical(row.values)
        digest = hashlib.blake2b(content.encode(), digest_size=20).digest()
        row_id = digest.hex()[:20] if mapping.id is None else _identifier(row.values, mapping.id)
        split = self._deal(group, row_id, row.values, mapping.by)
        known = self.seen.get(row_id)
        if known is not None:
            if known[0] != digest:
                raise _Unusable("another row has the same id and other content")
            self.duplicates += known[1] == split
            self.leaks += known[1] != split
            return
        asked = self._read(row.values, mapping)
        columns = content
        if _is_conversation(row.values, mapping.prompt):
            own = {k: v for k, v in row.values.items() if k not in (mapping.prompt, "tools")}
            columns = _canonical(own)
        self.seen[row_id] = digest, split
        each = self.data.turns == "each"
        for turn, (messages, reference) in enumerate(asked):
            self.prompts[split].append(
                Prompt(
                    id=f"{row_id}.{turn}" if each else row_id,
                    conversation_id=row_id if each else None,
                    messages=messages,
                    tools=_tools(row.values, mapping.prompt),
                    task=self.task,
                    source=row.file.rpartition("/")[2],
                    split=split,
                    reference=reference,
                    columns=columns,
                )
            )

    def _deal(self, group: Split, row_id: str, values: Mapping[str, Any], by: str | None) -> Split:
        """The split of a row: that of its file, or drawn by hash among those that have no file of their own."""
        if group != "train":
            return group
        if by is not None and by not in values:
            raise _Unusable(f"column '{by}', which data.split.by names, is missing")
        drawn = _hash("split", row_id if by is None else _canonical(values[by])) / 2**HASH_BITS
        # Test comes first, so a changed share of validation never moves a row into or out of test.
        test = 0.0 if self.data.test else self.data.split.test
        validation = 0.0 if self.data.validation else self.data.split.validation
        return "test" if drawn < test else "validation" if drawn < test + validation else "train"

    def _read(self, values: Mapping[str, Any], mapping: _Mapping) -> list[tuple[list[Message], str | None]]:
        """What a row asks, with the data's own answer: one pair, or one per assistant turn."""
        reference = mapping.reference
        if _is_conversation(values, mapping.prompt):
            messages = conversations.parse(values[str(mapping.prompt)])
            if self.data.turns == "each":
                return conversations.each_asked(messages)
            asked, answer = conversations.asked(messages)
            return [(asked, answer if reference is None else self._answer(values, reference))]
        text = self._text(values, mapping.prompt)
        if not text.strip():
            raise _Unusable("the prompt is empty")
        return [([Message("user", text)], None if reference is None else self._answer(values, reference))]

    def _text(self, values: Mapping[str, Any], source: str | Template) -> str:
        if isinstance(source, Template):
            return source.render(values, self.data.max_row_bytes)
        value = values.get(source)
        if not isinstance(value, str | None):
            raise _Unusable(f"column '{source}' holds {_KINDS.get(type(value), 'no')} instead of text")
        return value or ""

    def _answer(self, values: Mapping[str, Any], source: str | Template) -> str | None:
        """Numbers count as text: class labels often are."""
        value = values.get(source) if isinstance(source, str) else None
        if isinstance(value, bool | int | float):
            return json.dumps(value)
        return self._text(values, source) or None


_KINDS = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}


def _is_conversation(values: Mapping[str, Any], prompt: str | Template) -> bool:
    if isinstance(prompt, Template):
        return False
    value = values.get(prompt)
    return isinstance(value, list) or (prompt in ("messages", "conversations") and not isinstance(value, int | float))


def _tools(values: Mapping[str, Any], prompt: str | Template) -> str | None:
    tools = values.get("tools")
    if not tools or not _is_conversation(values, prompt):
        return None
    return tools if isinstance(tools, str) else _canonical(tools)


def _identifier(values: Mapping[str, Any], column: str) -> str:
    value = values.get(column)
    if value is None or value == "":
        raise _Unusable("the id is missing")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _Unusable("the id is neither text nor a whole number")
    return str(value)


def _canonical(value: Any) -> str:
    """One spelling for equal values. Raises _Unusable for what JSON cannot say."""
    try:
        return _ENCODER.encode(value)
    except TypeError:
        raise _Unusable("a value that JSON cannot hold") from None
    except ValueError:
        raise _Unusable("NaN or Infinity") from None
    except RecursionError:
        raise _Unusable("nested too deeply") from None


def _spelled(value: Any) -> str:
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal | datetime.timedelta):
        return str(value)
    raise TypeError(type(value).__name__)


_ENCODER = json.JSONEncoder(
    sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_spelled
)


def _drop_leaks(kept: dict[Split, list[Prompt]]) -> int:
    """Take out of train, and of validation, what a row held out from it asks in the same words; how many."""
    held: set[bytes] = set()
    dropped = 0
    for split in reversed(SPLITS):
        asked = [_question(p) for p in kept[split]] if held or split != "train" else []
        if held and (rows := [p for p, q in zip(kept[split], asked, strict=True) if q not in held]) != kept[split]:
            dropped += len(kept[split]) - len(rows)
            kept[split] = rows
        held.update(asked)
    return dropped


def _question(prompt: Prompt) -> bytes:
    text = repr([(m.role, m.content, m.tool_calls, m.tool_call_id) for m in prompt.messages])
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _limit(kept: dict[Split, list[Prompt]], limit: int | None) -> int:
    """Keep the train rows of smallest hash, so a larger limit keeps all that a smaller one does; how many went."""
    rows = kept["train"]
    keys = {p.conversation_id or p.id for p in rows}
    if limit is None or len(keys) <= limit:
        return 0
    chosen = set(sorted(keys, key=lambda key: _hash("limit", key))[:limit])
    kept["train"] = [p for p in rows if (p.conversation_id or p.id) in chosen]
    return len(rows) - len(kept["train"])


def _write_units(split: Split, rows: list[Prompt], context: Context) -> list[File]:
    def write(unit: list[Prompt]) -> File:
        if context.stopping.is_set():
            raise Interrupted("stopped while writing prompts; finished units stay: run the same command to go on")
        return artifacts.write_part(context.url, split, Prompt, unit)

    with ThreadPoolExecutor(WRITERS) as pool:
        return list(pool.map(write, units(rows)))


def _write_rejected(rejected: Mapping[Split, list[Rejected]], url: str) -> list[File]:
    files = []
    for split, rows in rejected.items():
        if rows:
            path = f"rejected/{split}.jsonl"
            lines = (json.dumps(dataclasses.asdict(row), ensure_ascii=False) for row in rows)
            content = "".join(f"{line}\n" for line in lines).encode()
            storage.write(storage.join(url, path), content)
            files.append(artifacts.describe(path, content, len(rows)))
    return files


def _check_error_rate(intake: _Intake, context: Context) -> None:
    rows = [row for group in intake.rejected.values() for row in group]
    if len(rows) <= context.max_error_rate * intake.read:
        return
    share = len(rows) / intake.read
    lines = []
    for reason, count in Counter(row.reason for row in rows).most_common(3):
        first = next(row for row in rows if row.reason == reason)
        lines.append(f"    {reason}: {count}, first at {first.file}: {first.position}")
    enough = math.ceil(share * 100) / 100
    raise DataError(
        f"{len(rows)} of {intake.read} rows cannot be used ({share:.1%}); max_error_rate allows "
        f"{context.max_error_rate:.1%}, because more usually means that the data is read the wrong way\n"
        + "\n".join(lines)
        + f"\n    all of them: {storage.join(context.url, 'rejected')}\n"
        f"mend these rows, or let them be left out with `max_error_rate: {enough}` in the recipe"
    )

"""curate: keep the teacher's answers that are worth learning from, and count every one that is not.

Rows stream part by part. Only a filter over the whole set ends a pass, and it holds just the columns it names, so
memory follows the rows' text and never their token ids. What was dropped, and why, is in `dropped.jsonl`, without
content.
"""

import collections
import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from raystill import filters, plugins, reading, recipe, storage, tasks
from raystill.artifacts import File, Outcome, Table, decode, describe, write_part
from raystill.context import Context
from raystill.errors import DataError, Interrupted, StageError
from raystill.filters import Filter, Rules
from raystill.records import Example, Generation, Ids, Message, Split

VERSION = 1
DROPPED = "dropped.jsonl"
SPLITS: tuple[Split, ...] = ("train", "validation")

Key = tuple[str, str, int]
_BLANK = Generation("", None, [], None, "", "", "", None, "{}")


def curate(curate: recipe.Curate, task: recipe.Task, generations: Mapping[str, Table], context: Context) -> Outcome:
    """Examples from each teacher's generations, in the same parts. Raises DataError when nothing is left to train on.

    Failed generations are dropped first, then each filter sees what the ones before it kept.
    """
    judge = tasks.load(task, references(generations.values()))
    rules = Rules(curate.max_tokens, tasks.keeps(task, judge), judge.parse)
    cut = tasks.reasons(task) and not curate.reasoning
    passes = _passes([plugins.load(name, filters.KINDS, "filter") for name in curate.filters])
    parts = [(name, table, part) for name, table in generations.items() for part in table.parts(*SPLITS)]
    context.progress.start(context.label, len(parts) * len(passes), "parts")

    dropped: dict[Key, tuple[str, str]] = {}
    files: list[File] = []
    counted: collections.Counter[str] = collections.Counter()
    for number, (by_prompt, over_set) in enumerate(passes):
        gathered: list[Generation] = []
        for teacher, table, part in parts:
            rows = decode(Generation, table.read(part.path), f"{table.url}/{part.path}")
            rows = [dataclasses.replace(row, teacher=teacher) for row in rows]
            if number == 0:
                counted.update(row.split for row in rows)
                _drop(dropped, rows, [row.error and f"error: {row.error}" for row in rows])
            kept = _sift(by_prompt, rules, rows, dropped)
            if over_set is not None:
                gathered += [_only(row, filters.columns_of(over_set) or ()) for row in kept]
            elif kept:
                examples = [example(row, curate.reasoning, cut) for row in kept]
                files.append(write_part(context.url, kept[0].split, Example, examples))
            context.progress.advance(1)
            if context.stopping.is_set():
                raise Interrupted("stopped while curating; run the same command to start this stage again")
        if over_set is not None:
            _drop(dropped, gathered, over_set(gathered, rules))

    counts = _counts(counted, dropped)
    if not counts["kept"]["train"]:
        raise _nothing_left(counts)
    files.append(_write_dropped(context.url, dropped))
    tokenizers = {name: table.facts["tokenizer"] for name, table in generations.items() if "tokenizer" in table.facts}
    return Outcome("examples", files, Example.SCHEMA, counts, {"tokenizers": tokenizers})


def references(tables: Iterable[Table]) -> set[str]:
    """All references of the train and validation rows."""
    return {r for table in tables for r in table.column("reference", *SPLITS) if r is not None}


def example(row: Generation, reasoning: bool, cut: bool = False) -> Example:
    """A generation as what the student learns from: loss on the answer alone, not on earlier turns.

    `cut` takes away the reasoning that stands before an answer's mark. Without its reasoning an answer has no token ids:
    those that the teacher wrote hold both.
    """
    thought = row.reasoning if reasoning else None
    text = reading.answer(row.text) if cut else row.text
    answer = Message("assistant", text, reasoning=thought, tool_calls=row.tool_calls)
    return Example(
        id=row.id,
        teacher=row.teacher,
        sample_index=row.sample_index,
        split=row.split,
        messages=[*row.messages, answer],
        tools=row.tools,
        loss_turns=[len(row.messages)],
        completion_ids=row.completion_ids if thought == row.reasoning and text == row.text else Ids([]),
    )


def _passes(chosen: Sequence[Filter]) -> list[tuple[list[Filter], Filter | None]]:
    """Filters in order as runs over the parts, each but the last ended by a filter over the whole set."""
    passes: list[tuple[list[Filter], Filter | None]] = []
    run: list[Filter] = []
    for one in chosen:
        if filters.columns_of(one) is None:
            run.append(one)
        else:
            passes.append((run, one))
            run = []
    return [*passes, (run, None)]


def _sift(
    chosen: Sequence[Filter], rules: Rules, rows: Sequence[Generation], dropped: dict[Key, tuple[str, str]]
) -> list[Generation]:
    """The rows that are left after these filters and everything before them."""
    kept = [row for row in rows if _key(row) not in dropped]
    for one in chosen:
        _drop(dropped, kept, one(kept, rules))
        kept = [row for row in kept if _key(row) not in dropped]
    return kept


def _drop(dropped: dict[Key, tuple[str, str]], rows: Sequence[Generation], reasons: Sequence[str | None]) -> None:
    if len(reasons) != len(rows):
        raise StageError(
            f"a filter gave {len(reasons)} reasons for {len(rows)} rows; it must give a text or None for every row"
        )
    dropped.update({_key(row): (row.split, reason) for row, reason in zip(rows, reasons, strict=True) if reason})


def _key(row: Generation) -> Key:
    return row.id, row.teacher, row.sample_index


def _only(row: Generation, columns: Sequence[str]) -> Generation:
    """The row with its key, its split and these columns; the rest blank."""
    always = ("id", "teacher", "sample_index", "split")
    return dataclasses.replace(_BLANK, **{c: getattr(row, c) for c in (*always, *columns)})


def _counts(counted: collections.Counter[str], dropped: dict[Key, tuple[str, str]]) -> dict[str, Any]:
    """Rows in, kept and dropped by reason, per split."""
    reasons: dict[str, collections.Counter[str]] = {split: collections.Counter() for split in SPLITS}
    for split, reason in dropped.values():
        reasons[split][reason] += 1
    return {
        "in": {split: counted[split] for split in SPLITS},
        "kept": {split: counted[split] - reasons[split].total() for split in SPLITS},
        "dropped": {split: dict(reasons[split].most_common()) for split in SPLITS},
    }


def _write_dropped(url: str, dropped: dict[Key, tuple[str, str]]) -> File:
    def lines() -> Iterator[str]:
        for (row_id, teacher, sample_index), (split, reason) in sorted(dropped.items()):
            row = {"id": row_id, "teacher": teacher, "sample_index": sample_index, "split": split, "reason": reason}
            yield json.dumps(row, ensure_ascii=False) + "\n"

    data = "".join(lines()).encode()
    storage.write(storage.join(url, DROPPED), data)
    return describe(DROPPED, data)


def _nothing_left(counts: dict[str, Any]) -> DataError:
    rows, reasons = counts["in"]["train"], list(counts["dropped"]["train"].items())
    if not rows:
        return DataError("there is no train row to learn from; give data.train more rows, or lower data.split's shares")
    said = ", ".join(f"{reason} ({n})" for reason, n in reasons[:3])
    return DataError(
        f"curate dropped all {rows} train answers: {said}. Nothing is left to train on; look at them with "
        "`raystill show RECIPE generate`, then mend the teacher (teacher.sampling.max_tokens when they are truncated, "
        "teacher.system when they are no valid answers), or take the filter out of curate.filters"
    )

"""`raystill init`: a first recipe from a file of prompts, with what was guessed and why.

guess() looks at the first rows and at the machine; write_recipe() writes the commented recipe and, beside it, the JSON
Schema that editors check it by. Guesses are only ever written down for the user to change: no other part of raystill
asks this one.
"""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from raystill import reading, sources
from raystill.errors import DataError, RecipeError
from raystill.formats import Found
from raystill.recipe import Data, Recipe, Task
from raystill.stages.prepare import PROMPT_COLUMNS
from raystill.tasks import math, moderation, nli

SAMPLE_ROWS = 10_000
"""Rows looked at: a third of a second, and enough to see the labels of a file that is sorted by label."""
MOST_LABELS = 200
"""More distinct answers than this are no classes."""
LABEL_LENGTH = 60
"""Longest class name in characters; longer repeated answers are canned replies, hence conversation."""
LISTED_LABELS = 40
"""Most labels written out in the teacher's system prompt."""
SCHEMA_FILE = "recipe.schema.json"
REFERENCE_COLUMNS = (
    "reference", "label", "category", "intent", "class", "topic", "answer", "output", "response", "completion",
    "target", "expected", "summary", "highlights",
)  # fmt: skip
ID_COLUMNS = ("id", "uuid", "row_id", "prompt_id", "message_id", "ticket_id", "conversation_id")
OWNER_COLUMNS = ("customer_id", "customer", "user_id", "user", "account_id", "account", "author", "session_id")

TOGETHER: dict[tuple[str, str], tuple[str, str]] = {
    ("premise", "hypothesis"): ("nli", "Premise: {{ premise }}\nHypothesis: {{ hypothesis }}"),
    ("context", "question"): ("qa", "{{ context }}\n\n{{ question }}"),
    ("instruction", "input"): ("", "{{ instruction }}\n{{ input }}"),
}
"""Columns that are asked together, the task that they speak of, and how."""
LANGUAGES = {
    "ar": "Arabic", "cs": "Czech", "de": "German", "en": "English", "es": "Spanish", "fr": "French", "hi": "Hindi",
    "it": "Italian", "ja": "Japanese", "ko": "Korean", "nl": "Dutch", "pl": "Polish", "pt": "Portuguese", "ru": "Russian",
    "tr": "Turkish", "uk": "Ukrainian", "zh": "Chinese",
}  # fmt: skip
MATH_ROWS = 200
LABELLED = ("classification", "nli", "moderation")
SUMMARIES = ("summary", "highlights")
PASSES = ("safe", "non-toxic", "not_toxic", "nontoxic", "not toxic", "harmless", "ham")
"""How data calls what may stand; a label beside one of these is a reason to flag."""

LAPTOP: dict[str, dict[str, Any]] = {
    "teacher": {"model": "models/smollm2-135m-instruct"},
    "student": {"init": {"from": "teacher", "layers": [0, 5, 10, 15, 20, 25, 29]}},
    # Few layers of a cut model have to be learnt anew, so it takes a higher rate than a whole one.
    "train": {"learning_rate": 0.0005},
}
"""A pair that trains on two cores within the hour: 7 of the teacher's 30 layers, 0.4 of its weights."""
GPU: dict[str, dict[str, Any]] = {"teacher": {"model": "Qwen/Qwen3-8B"}, "student": {"model": "Qwen/Qwen3-0.6B"}}
"""One family, so one tokenizer; both fit one 24 GB card in turn, and both are Apache-2.0."""


@dataclass(frozen=True)
class Guess:
    """What a data file seems to hold. `columns` maps names to types; `why` has one line per decision."""

    path: str
    columns: dict[str, str]
    rows: int
    whole: bool
    """Whether `rows` are all rows of the file."""
    prompt: str
    reference: str | None
    id: str | None
    by: str | None
    task: str | dict[str, Any]
    labels: list[str]
    """The classes of a classification."""
    gpu: bool
    why: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        seen = f"{'all' if self.whole else 'the first'} {self.rows} rows of {self.path}"
        columns = [f"    {name}: {kind}" for name, kind in self.columns.items()]
        reasons = [f"  {what}: {reason}" for what, reason in self.why.items()]
        return "\n".join([f"Looked at {seen}; its columns:", *columns, "Guessed, for you to change:", *reasons])


def guess(path: str) -> Guess:
    """Columns, task and machine for a data file, folder, glob, S3 address or hub id.

    Raises DataError when it cannot be read or has no column that could be a prompt.
    """
    limit = Data.model_fields["max_row_bytes"].default
    rows = [row.values for row in islice(sources.read(path, "train", limit), SAMPLE_ROWS + 1) if isinstance(row, Found)]
    if not rows:
        raise DataError(
            f"{path} has no row that can be read, so there is nothing to guess from; give a file with prompts"
        )
    whole, rows = len(rows) <= SAMPLE_ROWS, rows[:SAMPLE_ROWS]
    columns = {name: _kind(rows, name) for name in dict.fromkeys(name for row in rows for name in row)}
    why: dict[str, str] = {}
    prompt = _prompt(rows, columns, why)
    reference = None if columns.get(prompt) == "conversation" else _reference(rows, columns, prompt, why)
    if columns.get(prompt) == "conversation":
        why["reference"] = "each conversation's last assistant turn"
    if (pair := _languages(columns)) and columns.get(prompt) != "conversation":
        prompt, reference = pair
        why["prompt"], why["reference"] = f"'{prompt}', a language", f"'{reference}', the other language"
    labels = _labels(rows, reference)
    task = _task(rows, columns, reference, labels, why)
    gpu = shutil.which("nvidia-smi") is not None
    why["models"] = (
        "8B teaches 0.6B of the same family, as there is an NVIDIA GPU here"
        if gpu
        else "a 135M model teaches a student cut from its own layers, as there is no NVIDIA GPU here"
    )
    return Guess(
        path=path,
        columns=columns,
        rows=len(rows),
        whole=whole,
        prompt=prompt,
        reference=reference,
        id=_id(rows, columns, why),
        by=_owner(rows, columns, why),
        task=task,
        labels=labels if task == "classification" else [],
        gpu=gpu,
        why=why,
    )


def write_recipe(found: Guess, path: str) -> str:
    """Write the recipe, and SCHEMA_FILE beside it; the text to show.

    Raises RecipeError rather than overwrite a recipe.
    """
    target = Path(path)
    text = recipe_text(found, Path(found.path).name.partition(".")[0] if target.stem == "recipe" else target.stem)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with target.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise RecipeError(f"{path} exists and is not overwritten; give another name, or move it away") from None
    schema = json.dumps(Recipe.model_json_schema(), indent=2) + "\n"
    (target.parent / SCHEMA_FILE).write_text(schema, encoding="utf-8")
    return f"{found}\nWrote {path} and {SCHEMA_FILE} beside it. Next:\n  raystill plan {path}\n  raystill run {path}"


def recipe_text(found: Guess, name: str) -> str:
    """The commented recipe. It validates as it stands."""
    models = GPU if found.gpu else LAPTOP
    data: dict[str, Any] = {"train": found.path, "prompt": found.prompt}
    if found.reference:
        data["reference"] = found.reference
    if found.id:
        data["id"] = found.id
    teacher: dict[str, Any] = dict(models["teacher"])
    if system := _system(found):
        teacher["system"] = system
    if Task.model_validate(found.task).kind in LABELLED:
        teacher["sampling"] = {"temperature": 0.0, "max_tokens": 32}
    about = [f"{what}: {found.why[what]}" for what in ("prompt", "reference", "id") if what in found.why]
    parts = [
        f"# yaml-language-server: $schema={SCHEMA_FILE}\n"
        "# A first recipe, by `raystill init`. Every line may change; keys left out have defaults, and\n"
        "# `raystill plan --resolved` shows each with its reason.",
        f"{_block('name', _slug(name))}\n# {found.why['task']}\n{_block('task', found.task)}",
        _block("data", data, *about) + "\n" + _split(found),
        _block(
            "teacher",
            teacher,
            "Who answers the prompts. Only the teacher sees its `system`: sparing the student a long instruction is a",
            "common reason to distil.",
            *(
                ["The data has right answers, so the teacher can be taught first: jobs/ shows how."]
                if data.get("reference")
                else []
            ),
        ),
        _block("student", models["student"], f"Who learns: {found.why['models']}."),
    ]
    if "train" in models:
        parts.append(_block("train", models["train"], "A cut student relearns more than a whole one: a high rate."))
    return "\n\n".join(parts) + "\n"


def _block(key: str, value: Any, *comments: str) -> str:
    """One key of the recipe: its own keys on a line each, what they hold in one line."""
    lines = [f"# {line}" for line in comments]
    if isinstance(value, Mapping):
        lines += [f"{key}:", *(f"  {inner}: {_inline(held)}" for inner, held in value.items())]
    else:
        lines.append(f"{key}: {_inline(value)}")
    return "\n".join(lines)


def _inline(value: Any) -> str:
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=float("inf"), default_flow_style=True)
    return text.removesuffix("...\n").strip()


def _split(found: Guess) -> str:
    if found.by:
        return f"  split: {{by: {json.dumps(found.by)}}}    # {found.why['split']}"
    return (
        "  # split: {validation: 0.05, test: 0.1}    # by hash of the row; `by: COLUMN` keeps a customer in one split"
    )


def _system(found: Guess) -> str | None:
    """What a teacher that was never shown the labels has to be told."""
    if not found.labels:
        return None
    if len(found.labels) > LISTED_LABELS or not found.whole:
        return "Answer with the name of the category and nothing else."
    return f"Answer with exactly one of these and nothing else: {', '.join(found.labels)}"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-") or "my-run"


def _kind(rows: Sequence[Mapping[str, Any]], column: str) -> str:
    kinds = {_kind_of(row[column], column) for row in rows if row.get(column) is not None}
    return " or ".join(sorted(kinds)) or "empty"


def _kind_of(value: Any, column: str) -> str:
    if isinstance(value, str):
        return "conversation" if column in ("messages", "conversations") and value.startswith("[") else "text"
    if isinstance(value, list):
        return "conversation" if value and isinstance(value[0], dict) and {"role", "from"} & set(value[0]) else "list"
    return {bool: "true or false", int: "number", float: "number", dict: "object"}.get(
        type(value), type(value).__name__
    )


def _prompt(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], why: dict[str, str]) -> str:
    for pair, (_, template) in TOGETHER.items():
        if set(pair) <= set(columns):
            why["prompt"] = f"'{pair[0]}' followed by '{pair[1]}', as they are usually used"
            return template
    usable = [name for name, kind in columns.items() if kind in ("text", "conversation")]
    if named := next((n for n in (*PROMPT_COLUMNS, "instruction", "input") if n in usable), None):
        why["prompt"] = f"'{named}', by its name"
        return named
    if not usable:
        raise DataError(
            f"no column could be a prompt: text or a conversation is needed, there are "
            f"{', '.join(f'{name} ({kind})' for name, kind in columns.items())}"
        )
    rest = [name for name in usable if name not in (*REFERENCE_COLUMNS, *ID_COLUMNS, *OWNER_COLUMNS)] or usable
    longest = max(rest, key=lambda name: sum(len(str(row.get(name) or "")) for row in rows))
    why["prompt"] = f"'{longest}', the column with the longest texts"
    return longest


def _reference(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], prompt: str, why: dict[str, str]
) -> str | None:
    usable = [name for name, kind in columns.items() if kind in ("text", "number") and name != prompt]
    if named := next((n for n in REFERENCE_COLUMNS if n in usable), None):
        why["reference"] = f"'{named}', by its name"
        return named
    for name in usable:
        if columns[name] == "text" and name not in (*ID_COLUMNS, *OWNER_COLUMNS) and _labels(rows, name):
            why["reference"] = f"'{name}', as it has few different values"
            return name
    why["reference"] = "none found: without right answers the report says agreement with the teacher, not accuracy"
    return None


def _languages(columns: Mapping[str, str]) -> tuple[str, str] | None:
    """Two columns that are named by language codes: from English where it is one of them, else from the first."""
    found = sorted((n for n, kind in columns.items() if n in LANGUAGES and kind == "text"), key=lambda n: n != "en")
    return (found[0], found[1]) if len(found) == 2 else None


def _task(
    rows: Sequence[Mapping[str, Any]],
    columns: Mapping[str, str],
    reference: str | None,
    labels: Sequence[str],
    why: dict[str, str],
) -> str | dict[str, Any]:
    """The task as the recipe names it."""
    for pair, (kind, _) in TOGETHER.items():
        if kind and set(pair) <= set(columns):
            why["task"] = f"{kind}: each row has '{pair[0]}' and '{pair[1]}'"
            own = kind == "nli" and labels and not all(reading.reference_label(nli.LABELS, label) for label in labels)
            return {"kind": kind, "labels": list(labels)} if own else kind
    if reference in LANGUAGES:
        why["task"] = f"translation: '{reference}' is a language"
        return {"kind": "translation", "language": LANGUAGES[reference]}
    if reference in SUMMARIES:
        why["task"] = f"summarization: '{reference}', by its name"
        return "summarization"
    if labels and (passes := [label for label in labels if label.lower() in PASSES]):
        why["task"] = f"moderation: what is not '{passes[0]}' is to be flagged"
        ordered = [passes[0], *(label for label in labels if label != passes[0])]
        return "moderation" if ordered == moderation.LABELS else {"kind": "moderation", "labels": ordered}
    if labels:
        why["task"] = f"classification: '{reference}' has only {len(labels)} different values"
        return "classification"
    answers = [str(row[reference]) for row in rows if reference and row.get(reference) not in (None, "")]
    if answers and all(math.number(reading.answer(answer)) is not None for answer in answers[:MATH_ROWS]):
        why["task"] = f"math: '{reference}' is a number, or ends in one"
        return "math"
    why["task"] = "conversation: answers are free text"
    return "conversation"


def _labels(rows: Sequence[Mapping[str, Any]], column: str | None) -> list[str]:
    """The classes, when a column holds classes: few, short and often repeated."""
    values = [str(row[column]) for row in rows if column and row.get(column) not in (None, "")]
    labels = sorted(set(values))
    few = 2 <= len(labels) <= min(MOST_LABELS, len(values) // 2)
    return labels if few and max(map(len, labels)) <= LABEL_LENGTH else []


def _id(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], why: dict[str, str]) -> str | None:
    for name in ID_COLUMNS:
        if name in columns and len({row.get(name) for row in rows} - {None, ""}) == len(rows):
            why["id"] = f"'{name}', different in every row"
            return name
    return None


def _owner(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], why: dict[str, str]) -> str | None:
    for name in OWNER_COLUMNS:
        values = [row.get(name) for row in rows]
        if columns.get(name) in ("text", "number") and None not in values and 1 < len(set(values)) < len(rows):
            why["split"] = f"all rows of one '{name}' stay in one split, so the test is of people never seen"
            return name
    return None

"""mix: what an on-policy round learns from where the student answered a share of the prompts: its own text there, the
teacher's for all others (the lambda of GKD, arXiv 2306.13649)."""

from raystill import storage
from raystill.artifacts import Outcome, Table, decode, write_part
from raystill.context import Context
from raystill.records import Example
from raystill.teachers.units import SPLITS

VERSION = 1


def mix(own: Table, taught: Table, context: Context) -> Outcome:
    """The student's own examples as they are, and the teacher's of prompts that these do not answer."""
    answered = set(own.column("id", *SPLITS))
    files, counts = own.parts(*SPLITS), {"own": 0, "teacher": 0}
    context.progress.start(context.label, len(files) + len(taught.parts(*SPLITS)), "parts")
    for part in files:
        storage.put_if_absent(storage.join(context.url, part.path), own.read(part.path))
        counts["own"] += part.rows
        context.progress.advance(1)
    for part in taught.parts(*SPLITS):
        rows = decode(Example, taught.read(part.path), f"{taught.url}/{part.path}")
        if kept := [row for row in rows if row.id not in answered]:
            files.append(write_part(context.url, kept[0].split, Example, kept))
        counts["teacher"] += len(kept)
        context.progress.advance(1)
    tokenizers = {**taught.facts.get("tokenizers", {}), **own.facts.get("tokenizers", {})}
    return Outcome("examples", files, Example.SCHEMA, counts, {"tokenizers": tokenizers})

"""slice: some of the examples, for trials that must be cheap."""

from raystill import storage
from raystill.artifacts import File, Outcome, Table, decode, write_part
from raystill.context import Context
from raystill.errors import DataError
from raystill.records import Example
from raystill.teachers.units import SPLITS

VERSION = 1


def slice_(rows: int, examples: Table, context: Context) -> Outcome:
    """The first so many train examples and at most as many for validation; both lie in the order of a hash.

    Whole parts stay as they are, so that their soft targets are taken over. Raises DataError without validation examples.
    """
    files: list[File] = []
    for split in SPLITS:
        left = rows
        for part in examples.parts(split):
            if not left:
                break
            data = examples.read(part.path)
            if part.rows <= left:
                storage.put_if_absent(storage.join(context.url, part.path), data)
                files.append(part)
                left -= part.rows
            else:
                kept = decode(Example, data, f"{examples.url}/{part.path}")[:left]
                files.append(write_part(context.url, split, Example, kept))
                left = 0
    counts: dict[str, int] = {s: sum(f.rows for f in files if f.path.startswith(f"{s}-")) for s in SPLITS}
    if not counts["validation"]:
        raise DataError(
            "trials are compared by the validation text, and no validation example is left; raise data.split.validation, "
            "or look at what curate dropped"
        )
    return Outcome("examples", files, Example.SCHEMA, counts, {"tokenizers": examples.facts.get("tokenizers", {})})

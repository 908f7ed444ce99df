"""plan --rehearse: a few rows through every stage, and what they took, which then stands in a plan for what was assumed.

The rows are a recipe's own first ones, in a root of their own, and the run is an ordinary one. Those that are learnt from
are copied so that an engine's batch is full, as it is in the real run; an endpoint, which is paid by the row, gets no copies.
"""

import copy
import dataclasses
import datetime
import hashlib
import itertools
import json
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from raystill import artifacts, pipeline, planning, recipe_file, sources, storage
from raystill.artifacts import Checkpoint, Manifest, Table
from raystill.errors import RecipeError
from raystill.formats import Found
from raystill.planning import Planner
from raystill.provenance import hardware
from raystill.recipe import Recipe, Teacher
from raystill.recipe_file import Located
from raystill.records import Split

ROWS: dict[Split, int] = {"test": 16, "validation": 4, "train": 16}
COPIES = 16
LONGEST_PAUSE_S = 60.0
"""Between two steps of one run: after a longer one it was taken up again."""


@dataclass(frozen=True)
class Took:
    """What one step took: whatever the rows, and for each row, or each token of a training."""

    fixed_s: float
    each_s: float = 0.0


@dataclass(frozen=True)
class Sample:
    """What a sample of a recipe's rows took and had."""

    steps: dict[str, Took]
    between_s: float
    """Between all steps together: Ray's start, engines that end."""
    prompt_tokens: float
    answer_tokens: float
    kept: float
    """Share of the answers that curate kept."""
    learnt_tokens: dict[str, float]
    """Of one example, by the label of its training."""


def of(recipe: Recipe) -> Sample | None:
    """The sample of this recipe on this kind of machine; None without one, and for a store, which a plan never asks."""
    url = _url(recipe)
    if storage.is_s3(url) or not storage.exists(url):
        return None
    values = json.loads(storage.read(url))
    return Sample(**values | {"steps": {label: Took(**took) for label, took in values["steps"].items()}})


def run(path: str, compute: str | None = None) -> Sample:
    """Run the sample and keep what it took. Raises as a run does, and RecipeError where a teacher is still to be made."""
    from raystill import live

    located = recipe_file.load(path, compute)
    with tempfile.TemporaryDirectory(prefix="raystill-") as folder:
        small = Path(folder, "sample.yaml")
        small.write_text(yaml.safe_dump(shrunk(located), allow_unicode=True), encoding="utf-8")
        live.run(str(small))
        steps = planning.plan(str(small)).steps
    found = {s.label: table for s in steps if (table := artifacts.load(Table, s.url))}
    made = measured(found, located.recipe)
    storage.write(_url(located.recipe), json.dumps(dataclasses.asdict(made)).encode())
    return made


def shrunk(located: Located) -> dict[str, Any]:
    """The recipe's values with few rows of its data and a root of its own; the rows are written there.

    Raises RecipeError for a teacher that is another recipe's student and not made yet.
    """
    recipe, values = located.recipe, copy.deepcopy(located.values)
    root = storage.join(recipe.root, "sample")
    data = {key: value for key, value in values["data"].items() if key in ("prompt", "reference", "id", "turns")}
    for split, rows in _first(recipe).items():
        content = "".join(json.dumps(row, default=str, ensure_ascii=False) + "\n" for row in rows).encode()
        data[split] = storage.join(root, "data", f"{split}-{hashlib.sha256(content).hexdigest()[:12]}.jsonl")
        storage.write(data[split], content)
    filters = [name for name in recipe.curate.filters if name != "duplicate"]  # copies are meant to stay
    curate = {**values.get("curate", {}), "filters": filters}
    made = {**values, "root": root, "data": data, "curate": curate, "budget": {}}
    made.pop("tune", None)
    for name, teacher in recipe.all_teachers().items():
        if teacher.recipe:
            block = made["teachers"] if recipe.teachers else made
            key = name if recipe.teachers else "teacher"
            block[key] = {k: v for k, v in block[key].items() if k != "recipe"} | {"model": _made(teacher, recipe.root)}
    return made


def measured(found: Mapping[str, Table], recipe: Recipe) -> Sample:
    """What the artifacts of a run, by the labels of their steps, took and had."""
    manifests = {label: table.manifest for label, table in found.items() if table.manifest}
    trained = {label: m for label, m in manifests.items() if m.stage == "train"}
    generated = [m.counts for m in manifests.values() if m.stage == "generate"]
    answers = max(1, sum(counts["answers"] for counts in generated))
    return Sample(
        steps={label: _took(m, found[label], recipe) for label, m in manifests.items()},
        between_s=_between(list(manifests.values())),
        prompt_tokens=sum(counts["prompt_tokens"] for counts in generated) / answers,
        answer_tokens=sum(counts["output_tokens"] for counts in generated) / answers,
        kept=manifests["curate"].counts["kept"]["train"] / max(1, manifests["curate"].counts["in"]["train"]),
        learnt_tokens={
            label: m.counts["tokens"] / (m.counts["train"] * m.config["train"]["epochs"])
            for label, m in trained.items()
        },
    )


def _took(manifest: Manifest, table: Table, recipe: Recipe) -> Took:
    """A step's time, shared between what comes once and what comes with each row."""
    whole, counts = float(manifest.provenance["elapsed_s"]), manifest.counts
    if manifest.stage == "train":
        each, units = _token_s(table), counts["tokens"]
    elif manifest.stage == "generate" and manifest.facts["kind"] != "endpoint":
        # All rows are asked at once, so the one that waits longest takes as long as all.
        each, units = max(table.column("elapsed_s")) / max(1, counts["rows"]), counts["rows"]
    elif manifest.stage in ("generate", "answer"):
        at_once = recipe.evaluate.concurrency
        if manifest.stage == "generate" and recipe.teacher.endpoint:
            at_once = recipe.teacher.endpoint.concurrency
        each, units = statistics.fmean(table.column("elapsed_s")) / at_once, counts["rows"]
    else:
        return Took(whole)
    return Took(max(0.0, whole - each * units), each)


def _token_s(model: Table) -> float:
    """Seconds of a token in the middle one of a training's steps; the first step, which compiles, is left out."""
    assert model.manifest is not None
    path = next(f.path for f in model.manifest.files if f.path.endswith("curve.jsonl"))
    rows = [json.loads(line) for line in model.read(path).decode().splitlines()]
    pairs = list(itertools.pairwise(rows)) or [({"elapsed_s": 0, "tokens": 0}, rows[0])]
    each: list[float] = [
        (now["elapsed_s"] - before["elapsed_s"]) / (now["tokens"] - before["tokens"]) for before, now in pairs
    ]
    return statistics.median(each)


def _between(manifests: Sequence[Manifest]) -> float:
    """Seconds of a run in which no step ran."""
    spans = sorted(
        (datetime.datetime.fromisoformat(m.provenance["started_at"]).timestamp(), float(m.provenance["elapsed_s"]))
        for m in manifests
    )
    gaps = (later - (start + took) for (start, took), (later, _) in itertools.pairwise(spans))
    return sum(gap for gap in gaps if 0 < gap < LONGEST_PAUSE_S)


def _first(recipe: Recipe) -> dict[Split, list[dict[str, Any]]]:
    """The first rows of each split, those of files without a split of their own dealt in this order."""
    data, found = recipe.data, dict[Split, list[dict[str, Any]]]()
    shared = _read(data.train, data.max_row_bytes)
    for split, count in ROWS.items():
        own = getattr(data, split) if split != "train" else None
        if own or split == "train" or getattr(data.split, split):
            rows = list(itertools.islice(_read(own, data.max_row_bytes) if own else shared, count))
            found[split] = rows if split == "test" or recipe.teacher.endpoint else _copied(rows, data.id)
    return found


def _read(paths: str | list[str], max_row_bytes: int) -> Iterator[dict[str, Any]]:
    return (dict(row.values) for row in sources.read(paths, "train", max_row_bytes) if isinstance(row, Found))


def _copied(rows: Sequence[dict[str, Any]], id_column: str | None) -> list[dict[str, Any]]:
    """Copies that prepare takes for rows of their own."""
    own = id_column or "copy"
    return [{**row, own: f"{row.get(own, '')}-{number}"} for number in range(COPIES) for row in rows]


def _made(teacher: Teacher, root: str) -> str:
    """The folder of a teacher that is the student of another recipe."""
    checkpoint = pipeline.weights_of(teacher, Planner(root))
    made = artifacts.load(Checkpoint, checkpoint.url) if checkpoint else None
    if made is None:
        raise RecipeError(
            f"the teacher is the student of {teacher.recipe}, which is not made yet, so nothing can be rehearsed with it; "
            f"type: raystill run {teacher.recipe}"
        )
    return made.place()


def _url(recipe: Recipe) -> str:
    """Where a recipe's sample lies: by all that decides what it measures, of which the data are no part."""
    decides = {key: value for key, value in recipe.identity().items() if key not in ("data", "name")}
    compute = recipe.compute.model_dump(mode="json", exclude={"kubernetes"})
    models = [teacher.model or teacher.recipe for teacher in recipe.all_teachers().values()]
    models += [student.model for student in recipe.all_students().values()]
    decides |= {"models": models, "compute": compute, "on": hardware()}
    print_ = artifacts.fingerprint("sample", 1, decides, {})
    return storage.join(recipe.root, "sample", f"{recipe.name}-{print_}.json")

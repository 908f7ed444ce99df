"""Train the student on the kept answers: Ray Train workers around one DeepSpeed engine.

The driver tokenises once, starts the workers, shows what they report and takes the exported folder. What runs on a worker is
training/loop.py. Tokens and checkpoints of a run in progress lie under `<artifact>/work`; the same command resumes it.
"""

import hashlib
import itertools
import json
import os
import tempfile
import threading
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from raystill import chat, losses, models, plugins, recipe, session, storage, tasks
from raystill.artifacts import Checkpoint, File, Outcome, Table, decode, describe
from raystill.context import Context
from raystill.errors import DataError, Interrupted, ModelError, RecipeError, StageError
from raystill.records import Example, Prompt
from raystill.teachers import tokens
from raystill.training import advice, fits, layermap, pairs, zero

if TYPE_CHECKING:
    from raystill.training import board, exam, live, loop, soft

VERSION = 1
CURVE = "curve.jsonl"
"""One row a step: loss, validation_loss, learning_rate, gradient_norm, applied, resumed, tokens, elapsed_s, and gauges."""
POLL_S = 0.3
"""Time between two looks at the board."""


@dataclass(frozen=True)
class Live:
    """A teacher that runs beside the student, and how it is shown the prompts."""

    teacher: recipe.Teacher
    model: Checkpoint


class Tracker(Protocol):
    """Where scalars go."""

    def log(self, step: int, scalars: dict[str, float]) -> None:
        """Note scalars of a step."""


@dataclass
class Counts:
    """What became of the examples: kept ones by split, dropped ones by reason."""

    train: int = 0
    validation: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    supervised: int = 0
    """Tokens of the kept examples that the student learns to write."""
    with_targets: int = 0
    """Those of them of which the teacher says more than the text does."""
    raised_tails: int = 0
    """Those of these whose stored tail was 0, and was read as `losses.LEAST_TAIL`."""
    carried_mass: float = 1.0
    """Mean share of the teacher's listed mass that stands for tokens of the student; below 1 with another tokenizer."""


def train(
    train: recipe.Train,
    system: str | None,
    examples: Table,
    targets: Table | None,
    student: Checkpoint,
    trackers: Sequence[Tracker],
    context: Context,
    task: recipe.Task | None = None,
    prompts: Table | None = None,
    beside: Live | None = None,
    *,
    own: str | None = None,
    watch_text: bool = False,
    k: int | None = None,
) -> Outcome:
    """A trained student as an exported model folder, with its training curve. `beside` is train.teacher: live.

    `task` and its `prompts` are asked for where early stopping goes by the student's own answers. Of
    examples whose writer is called `own` (the student itself) only tokens with targets are learnt: it must not copy itself
    where the teacher said nothing. With `watch_text`, and always with `own`, the curve also has `text_loss`. Top-k targets
    are cut to `k`.

    Raises RecipeError for DeepSpeed keys that raystill owns, for a loss that these targets cannot give and for what the
    student, the workers or the ZeRO stage cannot do, ModelError for a live teacher with another tokenizer, DataError when no
    example can be learnt from, ResourceError when the cluster is too small, StageError when training fails, Interrupted after
    Ctrl-C (the same command resumes).
    """
    from raystill.training import adapters, checkpoints, loop

    if owned := zero.refuse_owned(train.deepspeed):
        raise RecipeError("\n".join(owned))
    plugins.find(train.loss.kind, losses.KINDS, "loss")
    scored_at = targets.facts if targets else {}
    support, temperature = pairs.supply(train, scored_at.get("support"), scored_at.get("temperature"))
    if mistakes := pairs.mistakes(train.loss, support, temperature, train.packing):
        raise RecipeError("\n".join(f"train.loss.{m.key}: {m.what}; {m.fix}" for m in mistakes))
    folder = student.folder()
    if train.lora:
        adapters.targets(adapters.blank(folder), train.lora)
    for line in advice.advice(train, models.parameters(folder), models.config(folder)):
        context.progress.say(line)
    url = context.url if storage.is_s3(context.url) else str(Path(context.url).resolve())
    if Path(student.url).is_dir():
        student = replace(student, url=str(Path(student.url).resolve()))
    if beside:
        layermap.check(train.loss, *(models.config(m.papers()) or {} for m in (student, beside.model)))
    attempt = uuid.uuid4().hex[:12]
    work = storage.join(url, "work", attempt)
    counts = _tokenise(train, system, examples, targets, beside, student, work, own, k, context.scratch)
    if not counts.train:
        why = ", ".join(f"{n} {reason}" for reason, n in counts.rejected.items()) or "there are none"
        raise DataError(
            f"no example is left to train on ({why}); raise train.max_length (now {train.max_length}) or look at "
            "what curate dropped"
        )
    if targets and not counts.with_targets:
        raise DataError(
            f"none of the {counts.supervised} tokens to learn has soft targets: the teacher scored none of these answers, or "
            "its tokenizer cuts text nowhere as the student's does; look at the counts of `score`, or take "
            "train.loss.kind: cross_entropy, which learns from text"
        )
    if beside and not counts.with_targets:
        raise DataError(
            f"the live teacher can be shown none of the {counts.supervised} tokens to learn: no example fits its context; "
            "shorten teacher.system or teacher.examples, or take a teacher with a longer context"
        )
    if train.early_stopping and not counts.validation:
        raise DataError(
            "train.early_stopping needs validation examples, and curate left none; raise data.split.validation, or remove it"
        )
    exam = _exam(train, task, prompts, system, student) if task and prompts else None
    teacher = beside.model if beside else None
    watched = watch_text or own is not None
    outcome = _fit(
        train, temperature or 1.0, student, teacher, url, attempt, counts.train, exam, watched, trackers, context
    )
    checkpoints.discard(work)
    exported = outcome.exported
    if exported is None:
        raise Interrupted(f"training stopped after step {outcome.stopped_at}; the same command goes on from there")
    curve = _write_curve(storage.join(url, exported.folder), outcome.curve)
    # Last: until here, a run that dies goes on from its checkpoint.
    checkpoints.forget(storage.join(url, loop.CHECKPOINTS), outcome.attempts)
    last, taken = outcome.curve[-1], outcome.curve[: exported.facts["step"]]
    validations = [row["validation_loss"] for row in taken if row["validation_loss"] is not None]
    return Outcome(
        kind="model",
        files=[*exported.files, replace(curve, path=f"{exported.folder}/{CURVE}")],
        counts=asdict(counts) | {"steps": last["step"], "tokens": last["tokens"]},
        facts=exported.facts
        | {"loss": taken[-1]["loss"], "validation_loss": validations[-1] if validations else None}
        | ({"drift": _drift(taken)} if own else {}),
    )


def _drift(curve: Sequence[dict[str, Any]]) -> float | None:
    """How much less likely the validation text became, in nats per token; None where there was none.

    Of text that the student drew at temperature 1 this estimates KL(who wrote || who has learnt).
    """
    before, after = curve[0].get("text_loss_before"), curve[-1].get("text_loss")
    return None if before is None or after is None else after - before


def _tokenise(
    train: recipe.Train,
    system: str | None,
    examples: Table,
    targets: Table | None,
    beside: Live | None,
    student: Checkpoint,
    work: str,
    own: str | None,
    k: int | None,
    scratch: Path,
) -> Counts:
    """Store the examples as token ids, and what the teacher thinks or is shown of them, for the workers; what was kept."""
    from raystill.training import batches, crossed, live, soft

    counts = Counts()
    tokenizer = chat.load_tokenizer(student.papers())
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        with (Path(folder) / (live.FILE if beside else soft.FILE)).open("wb") as file:
            writer: live.Writer | soft.Writer | None = None
            if beside:
                writer = live.Writer(file, beside.teacher, beside.model.papers(), tokenizer)
            elif targets:
                soft.check(targets, examples)
                if own and targets.facts["tokenizer"] != chat.fingerprint(tokenizer):
                    raise ModelError(
                        "in an on-policy round the student's own tokens are scored, and the teacher has others; take a student "
                        "with the teacher's tokenizer, or rounds: 0"
                    )
                writer = _writer(file, targets, tokenizer, models.vocabulary(student.papers()), k)
            batches.store(work, _encoded(train, system, examples, targets, tokenizer, writer, own, counts))
        if writer:
            vars(counts).update(writer.counts())
        if isinstance(writer, crossed.Writer) and writer.support == "sampled":
            writer.beyond().tofile(Path(folder) / soft.BEYOND)
        if counts.with_targets:
            storage.upload(Path(folder), work)
    return counts


def _writer(
    file: IO[bytes], targets: Table, tokenizer: chat.Tokenizer, vocabulary: int, k: int | None
) -> "soft.Writer":
    """What keeps stored targets for the workers: as they are, or carried over from the teacher's own tokens."""
    from raystill.training import crossed, soft

    support = targets.facts["support"]
    if targets.facts["tokenizer"] == chat.fingerprint(tokenizer):
        return soft.Writer(file, support, vocabulary, k)
    theirs = tokens.Tokens.load(targets.read(tokens.FILE))
    return crossed.Writer(file, support, vocabulary, theirs, tokens.of(tokenizer), k)


def _encoded(
    train: recipe.Train,
    system: str | None,
    examples: Table,
    targets: Table | None,
    tokenizer: chat.Tokenizer,
    writer: "live.Writer | soft.Writer | None",
    own: str | None,
    counts: Counts,
) -> Iterator[tuple[str, chat.Encoded, float, "soft.Span"]]:
    from raystill.training import live, soft

    mark = chat.fingerprint(tokenizer)
    written_by = examples.facts.get("tokenizers", {})
    for part in examples.parts("train", "validation"):
        found = soft.of_part(targets, part) if targets else {}
        for example in decode(Example, examples.read(part.path), f"{examples.url}/{part.path}"):
            messages = chat.view(example.messages, system, [])
            # A system message that came or went moves the turns behind it.
            turns = [i + len(messages) - len(example.messages) for i in example.loss_turns]
            given = example.completion_ids if written_by.get(example.teacher) == mark else None
            encoded = chat.encode(tokenizer, messages, turns, given, example.tools)
            if len(encoded.input_ids) > train.max_length:
                counts.rejected["too long"] = counts.rejected.get("too long", 0) + 1
                continue
            span = soft.Span()
            if isinstance(writer, live.Writer):
                span = writer(example, encoded)
            elif writer:
                span = writer(found.get((example.id, example.teacher, example.sample_index)), encoded)
            if example.teacher == own:
                encoded, span = soft.alone(encoded, span)
                if not span.count:
                    counts.rejected["not scored"] = counts.rejected.get("not scored", 0) + 1
                    continue
            setattr(counts, example.split, getattr(counts, example.split) + 1)
            counts.supervised += sum(encoded.loss_mask)
            yield example.split, encoded, example.weight, span


def _exam(
    train: recipe.Train, task: recipe.Task, prompts: Table, system: str | None, student: Checkpoint
) -> "exam.Exam":
    """The validation prompts whose hashes are smallest, of those that can be judged and are not too long to train on."""
    from raystill.training.exam import Exam

    early = train.early_stopping or recipe.EarlyStopping()
    references = set(prompts.column("reference", "train", "validation")) - {None}
    judge = tasks.load(task, references)
    tokenizer = chat.load_tokenizer(student.papers())

    def askable(prompt: Prompt) -> bool:
        judged = early.metric in tasks.metrics_of(judge, [prompt])
        asked = chat.prompt_ids(tokenizer, chat.view(prompt.messages, system, []), prompt.tools) if judged else []
        return judged and len(asked) <= train.max_length

    rows = sorted(prompts.rows(Prompt, "validation"), key=lambda p: hashlib.sha256(p.id.encode()).digest())
    chosen = list(itertools.islice(filter(askable, rows), early.rows))
    if not chosen:
        raise DataError(
            f"train.early_stopping.metric: no validation row can be judged by {early.metric} of task {task.kind}; set "
            "data.reference, or take metric: validation_loss"
        )
    return Exam(judge, early.metric, chosen, system, early.max_tokens)


def _fit(
    train: recipe.Train,
    temperature: float,
    student: Checkpoint,
    teacher: Checkpoint | None,
    url: str,
    attempt: str,
    examples: int,
    exam: "exam.Exam | None",
    watch_text: bool,
    trackers: Sequence[Tracker],
    context: Context,
) -> "board.Outcome":
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    from raystill.training import batches, loop
    from raystill.training.board import Board

    compute = context.compute.train
    (least, most), cpus, gpu = layout(compute)
    fits.refuse(train, compute, most, gpu)
    what = f"training with {least} workers of {cpus} CPUs each (compute.train.workers, compute.train.cpus)"
    session.need(what, least * cpus, least if gpu else 0)
    # Beside the driver, so that it outlives any node that workers are on.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    meeting: Any = ray.remote(num_cpus=0, scheduling_strategy=here)(Board).remote()
    job = loop.Job(train, temperature, compute, student, url, attempt, gpu, cpus, meeting, exam, teacher, watch_text)
    context.progress.start(context.label, batches.steps(examples, train.epochs, train.batch_size), "steps")
    errors: list[Exception] = []
    running = threading.Thread(target=_trained, args=(job, (least, most), context.scratch, errors), daemon=True)
    running.start()
    shown: dict[str, Any] = {"step": 0, "tokens": 0}
    while running.is_alive():
        running.join(POLL_S)
        if context.stopping.is_set():
            ray.get(meeting.ask_stop.remote())
        shown = _show(ray.get(meeting.drain.remote()), shown, trackers, context)
    outcome: board.Outcome = ray.get(meeting.outcome.remote())
    _show(ray.get(meeting.drain.remote()), shown, trackers, context)
    ray.kill(meeting)
    if outcome.error:
        raise outcome.error
    if outcome.exported is None and outcome.stopped_at is None:
        raise StageError(
            f"training lost its workers {compute.resume_failures + 1} times: {_reason(errors)}. The same command goes on "
            "from the last checkpoint; if memory is short, lower compute.train.micro_tokens or raise compute.train.zero"
        )
    return outcome


def layout(compute: recipe.Workers) -> tuple[tuple[int, int], int, bool]:
    """Least and most workers, CPUs of each, and whether they train on GPUs: one per GPU, else one per two cores."""
    import ray

    has = ray.cluster_resources()
    gpus = int(has.get("GPU", 0))
    # A local Ray counts more CPUs than there are cores, since most processes idle; training does not.
    cores = min(int(has.get("CPU", 1)), (os.cpu_count() or 1) * len(ray.nodes()))
    asked = compute.workers or gpus or max(1, cores // 2)
    least, most = asked if isinstance(asked, tuple) else (asked, asked)
    return (least, most), compute.cpus or max(1, cores // most), gpus > 0


def _trained(job: "loop.Job", workers: tuple[int, int], scratch: Path, errors: list[Exception]) -> None:
    """Run Ray Train to its end; in a thread of its own, since it blocks and would take over Ctrl-C."""
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from raystill.training import loop

    # Ray keeps its own bookkeeping here: nothing of the run's is in it.
    place = str(scratch) if len(ray.nodes()) == 1 else storage.join(job.url, "work", job.attempt, "ray")
    resources = {"CPU": job.threads} | ({"GPU": 1} if job.gpu else {})
    wide = workers[0] if workers[0] == workers[1] else workers
    try:
        TorchTrainer(
            loop.run,
            train_loop_config={"job": job},
            scaling_config=ScalingConfig(num_workers=wide, use_gpu=job.gpu, resources_per_worker=resources),
            run_config=RunConfig(
                name=f"train-{uuid.uuid4().hex[:8]}",
                storage_path=place,
                failure_config=FailureConfig(max_failures=job.compute.resume_failures),
            ),
        ).fit()
    except Exception as e:  # the driver's thread decides, with what the board knows
        errors.append(e)


def _reason(errors: Sequence[Exception]) -> str:
    """The first line of the first worker's error, without its traceback."""
    failures = getattr(errors[0], "worker_failures", {}) if errors else {}
    first = next(iter(failures.values()), errors[0] if errors else None)
    cause = getattr(first, "cause", None) or first
    return f"{type(cause).__name__}: {str(cause).strip().splitlines()[-1] if str(cause).strip() else ''}"


def _show(
    update: "board.Update", shown: dict[str, Any], trackers: Sequence[Tracker], context: Context
) -> dict[str, Any]:
    """Tell the user and the trackers what is new; the last row shown."""
    for line in update.lines:
        context.progress.say(line)
    for row in update.rows:
        # A resumed run starts further on, and after a lost worker some steps are done again.
        if (done := row["step"] - shown["step"]) <= 0:
            continue
        scalars = {k: float(v) for k, v in row.items() if k not in ("step", "applied", "resumed") and v is not None}
        newest = {k: v for k, v in scalars.items() if k in ("loss", "learning_rate")}
        # A resumed run's first row also counts what was learnt before it.
        tokens = row["tokens"] - shown["tokens"] if done == 1 else 0
        context.progress.advance(done, tokens=tokens, **newest)
        if not row["applied"]:
            context.progress.say(f"step {row['step']} had no finite loss or gradient and was not applied")
        for tracker in trackers:
            tracker.log(row["step"], scalars)
        shown = row
    return shown


def _write_curve(folder: str, curve: list[dict[str, Any]]) -> File:
    data = "".join(f"{json.dumps(row)}\n" for row in curve).encode()
    storage.put_if_absent(storage.join(folder, CURVE), data)
    return describe(CURVE, data)

"""What one train worker does: plain torch and a DeepSpeed engine, from the first step or a checkpoint to an export.

Every worker runs the same code in lockstep. What one of them must tell the others (a loss that is not finite, Ctrl-C)
travels in the one all-reduce that each micro-batch makes anyway, so all workers take every decision together.
"""

import math
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import ray
import torch
import torch.distributed as dist
from torch import Tensor

from raystill import recipe, storage
from raystill.artifacts import ADAPTER, Checkpoint
from raystill.errors import RaystillError, StageError
from raystill.training import (
    adapters,
    batches,
    checkpoints,
    early,
    export,
    kernels,
    layouts,
    loading,
    offload,
    optimizers,
    zero,
)
from raystill.training.batches import Corpus, Micro
from raystill.training.beside import Beside
from raystill.training.checkpoints import Layout, Saved
from raystill.training.exam import Exam, mark
from raystill.training.gauges import Gauges, gauges
from raystill.training.learner import Learner
from raystill.training.matching import Matching
from raystill.training.objective import objective
from raystill.training.saving import Saver

CHECKPOINTS = "work/checkpoints"
MAX_SKIPS = 5
"""Steps in a row without a finite loss and gradient before training is given up: one broken example spoils one step."""


@dataclass(frozen=True)
class Job:
    """Everything a worker needs; picklable."""

    train: recipe.Train
    temperature: float
    """That of the soft targets."""
    compute: recipe.Workers
    student: Checkpoint
    url: str
    """The artifact's folder, absolute."""
    attempt: str
    """This driver's name for the run: its tokens lie in `<url>/work/<attempt>`."""
    gpu: bool
    threads: int
    board: Any
    """Handle of the Board actor."""
    exam: Exam | None = None
    """What the student is judged by, where that is not its validation loss."""
    live: Checkpoint | None = None
    """The teacher that runs beside the student."""
    watch_text: bool = False
    """Whether the validation text's cross-entropy is noted too, whatever is minimised."""


@dataclass
class Worker:
    """One worker's engine and its place in the group."""

    job: Job
    engine: Any
    parameters: int
    gauges: Gauges
    corpora: dict[str, Corpus]
    device: torch.device
    rank: int
    workers: int


def run(config: dict[str, Job]) -> None:
    """Ray Train's entry point. An error for the user goes to the board, so that it is not taken for a lost worker."""
    job = config["job"]
    if ray.get(job.board.settled.remote()):
        return
    try:
        fit(job)
    except RaystillError as e:
        ray.get(job.board.fail.remote(e))
        raise


def fit(job: Job) -> None:
    """Train to the end or to Ctrl-C; the first worker tells the board."""
    worker = start(job)
    train = job.train
    corpus = worker.corpora["train"]
    total = batches.steps(len(corpus), train.epochs, train.batch_size)
    curve, tokens, attempts = resume(worker)
    resumed = len(curve)
    saver = Saver(storage.join(job.url, CHECKPOINTS), job.attempt, job.board.say.remote)
    validate_at = {round(total * (i + 1) / train.validations) for i in range(train.validations)}
    # Time goes on from where a resumed run stood; rows before the checkpoint keep their own.
    began = time.perf_counter() - (curve[-1]["elapsed_s"] if curve else 0.0)
    skipped = 0
    # Ctrl-C while workers were starting ends the run after its first step.
    posted: Any = ray.put(False)
    asked = worker.rank == 0 and bool(ray.get(job.board.stopping.remote()))
    ended = early.over(curve, train.early_stopping)
    for step in range(len(curve), total):
        if ended:
            break
        at = batches.batch(len(corpus), train.epochs, train.batch_size, train.seed, step)
        watched = {"text_loss_before": text_loss(worker)} if job.watch_text and step == 0 else {}
        rate = learning_rate(train, step, total)
        started = time.perf_counter()
        value, norm, stop = one_step(worker, at, step, rate, stop=asked)
        seconds, learnt = time.perf_counter() - started, int(batches.counts(corpus, at).sum())
        read = worker.gauges.read(corpus.lengths[at].tolist(), learnt, seconds)
        tokens += int(corpus.lengths[at].sum())
        skipped = 0 if norm is not None else skipped + 1
        if skipped == MAX_SKIPS:
            raise StageError(
                f"training diverged: steps {step + 2 - skipped} to {step + 1} of {total} had no finite loss and gradient, so "
                f"none was applied; lower train.learning_rate (now {train.learning_rate:g}) or raise train.warmup"
            )
        row: dict[str, Any] = {"step": step + 1, "loss": value if math.isfinite(value) else None}
        row |= {"applied": norm is not None, "gradient_norm": norm, "resumed": 0 < step == resumed}
        row |= read if norm is not None else dict.fromkeys(read)
        validated = step + 1 in validate_at
        row |= {"validation_loss": validate(worker) if validated else None} | watched
        if job.exam:
            row[job.exam.metric] = examine(worker, job.exam) if validated else None
        if job.watch_text and validated:
            row["text_loss"] = text_loss(worker)
        row |= {"learning_rate": rate, "tokens": tokens, "elapsed_s": round(time.perf_counter() - began, 3)}
        curve.append(row)
        ended = early.over(curve, train.early_stopping) if validated else None
        if worker.rank == 0:
            # Of the post before, which has had a step's time to come back: the loop never waits for the board.
            asked = asked or _is_true(posted)
            posted = job.board.post.remote(row)
        due = (step + 1) % train.checkpoint_every == 0 or (validated and best_step(train, curve) == step + 1)
        if stop or (due and step + 1 < total):
            keep(worker, saver, step + 1, curve, tokens, attempts)
        if stop:
            if lost := saver.wait():
                raise StageError(f"training stopped after step {step + 1}, and its checkpoint is not stored: {lost}")
            if worker.rank == 0:
                ray.get(job.board.stop.remote(step + 1))
            return
    saver.wait()
    chosen, why = choose(worker, curve), ended or "all steps done"
    if train.early_stopping and worker.rank == 0:
        job.board.say.remote(f"training ends after step {len(curve)}: {why}; the student of step {chosen} is exported")
    finish(worker, curve, attempts, {"step": chosen, "ended": why})


def start(job: Job) -> Worker:
    """Load tokens and student and wrap the student into a DeepSpeed engine."""
    zero.environment(job.gpu)
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.train.seed)
    import deepspeed

    offload.require(job.train.deepspeed)
    device = torch.device("cuda", torch.cuda.current_device()) if job.gpu else torch.device("cpu")
    model, parameters = loading.student(job.student.folder(), job.train, job.compute, device)
    corpora = batches.fetch(storage.join(job.url, "work", job.attempt))
    learner = Learner(model, objective(job.train.loss, job.temperature), *beside(job, model, corpora["train"], device))
    learner.look(shortest(corpora["train"], job.train.packing, model.device))
    if job.gpu:
        kernels.fit(model, flash=job.train.loss.attention is None)
    if job.compute.compile:
        loading.compile_layers(model)
    workers = dist.get_world_size()
    seen = gauges(model, device, workers)
    settings = zero.settings(job.compute.zero, job.train.clip, workers, parameters, job.gpu, job.train.deepspeed)
    engine, *_ = deepspeed.initialize(model=learner, optimizer=optimizers.build(learner, job.train), config=settings)
    return Worker(job, engine, parameters, seen, corpora, device, dist.get_rank(), workers)


def beside(job: Job, student: Any, corpus: Corpus, device: torch.device) -> tuple[Beside | None, Matching | None]:
    """The live teacher, if there is one, and what of its layers the student matches."""
    view = shortest(corpus, job.train.packing, device).view
    if job.live is None or view is None:
        return None, None
    teacher, loss = Beside(job.live.folder(), device, view), job.train.loss
    if not (loss.layers or loss.attention):
        return teacher, None
    return teacher, Matching(loss, *(model.config.get_text_config() for model in (student, teacher.model)))


def shortest(corpus: Corpus, packing: bool, device: torch.device) -> Micro:
    """The shortest example, for a look at the model."""
    return batches.micro(corpus, [int(corpus.lengths.argmin())], packing, device)


def learning_rate(train: recipe.Train, step: int, total: int) -> float:
    """The rate of a step (from 0): linear warm-up, then constant or half a cosine down to 0."""
    warm = round(train.warmup * total)
    if step < warm:
        return train.learning_rate * (step + 1) / warm
    if train.schedule == "constant":
        return train.learning_rate
    return train.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def one_step(worker: Worker, at: Any, step: int, rate: float, stop: bool) -> tuple[float, float | None, bool]:
    """Learn from one global batch. Returns its mean loss, its gradient's norm, and whether someone asked to stop.

    The norm is the one that clipping compares, None where the step was not applied. The device has done the step.
    """
    engine, corpus = worker.engine, worker.corpora["train"]
    torch.manual_seed(worker.job.train.seed + step)
    for group in engine.optimizer.param_groups:
        group["lr"] = rate
    share = deal(worker, corpus, at)
    supervised = batches.supervised(corpus, at)
    mean = 0.0
    for i, indices in enumerate(share):
        micro = batches.micro(corpus, indices, worker.job.train.packing, worker.device)
        loss = worker.engine(micro) / supervised
        of_all = torch.stack([loss.detach(), loss.new_tensor(float(stop))]).float()
        dist.all_reduce(of_all)
        value, asked = of_all.tolist()
        mean += value
        stop = asked > 0
        broken = not math.isfinite(value)
        engine.set_gradient_accumulation_boundary(broken or i == len(share) - 1)
        # DeepSpeed averages over workers; times their number makes it the sum that the global division expects.
        engine.backward(loss * worker.workers)
        if broken:
            break
    return mean, apply(engine), stop


def apply(engine: Any) -> float | None:
    """Step the optimizer and return the gradient's norm before clipping; None where it was not finite and nothing applied.

    ZeRO 1-3 and bf16 skip such a step themselves, silently, and keep the norm. ZeRO 0 in fp32 does neither, and would destroy
    the weights. Reading the norm waits for nothing more: DeepSpeed's throughput timer ends each step by waiting for the device.
    """
    if engine.zero_optimization_stage() == 0 and not engine.bfloat16_enabled():
        gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        if not math.isfinite(norm):
            engine.zero_grad()
            return None
        engine.step()
        return norm
    engine.step()
    return float(engine.get_global_grad_norm()) if engine.was_step_applied() else None


def deal(worker: Worker, corpus: Corpus, at: Any) -> list[list[int]]:
    """This worker's micro-batches of a global batch."""
    lengths = [int(n) for n in corpus.lengths[at]]
    job = worker.job
    share = batches.deal(lengths, worker.workers, job.compute.micro_tokens, job.train.packing)[worker.rank]
    return [[int(at[i]) for i in indices] for indices in share]


def validate(worker: Worker) -> float | None:
    """Mean loss over all validation tokens, wherever they lie; None without validation examples."""
    corpus = worker.corpora.get("validation")
    if corpus is None:
        return None
    size = worker.job.train.batch_size
    total = torch.zeros((), device=worker.device)
    worker.engine.eval()
    with torch.no_grad():
        for first in range(0, len(corpus), size):
            at = np.arange(first, min(first + size, len(corpus)))
            for indices in deal(worker, corpus, at):
                total += worker.engine(batches.micro(corpus, indices, worker.job.train.packing, worker.device))
    worker.engine.train()
    dist.all_reduce(total)
    return float(total) / batches.supervised(corpus, range(len(corpus)))


def text_loss(worker: Worker) -> float | None:
    """Mean cross-entropy of the validation text, whatever the loss is; None without validation examples."""
    learner = worker.engine.module
    learner.text_only = True
    try:
        return validate(worker)
    finally:
        learner.text_only = False


def examine(worker: Worker, exam: Exam) -> float:
    """What the student's own answers are worth."""
    worker.engine.eval()
    sharded = worker.engine.zero_optimization_stage() == 3
    value = mark(exam, worker.engine.module.student, worker.job.student.folder(), sharded)
    worker.engine.train()
    return value


def keep(
    worker: Worker, saver: Saver, step: int, curve: list[dict[str, Any]], tokens: int, attempts: list[str]
) -> None:
    """Store a checkpoint after `step` steps, while training goes on."""
    job, corpus = worker.job, worker.corpora["train"]
    at = batches.position(len(corpus), job.train.batch_size, step)
    saver.save(
        step,
        Layout(worker.workers, job.compute.zero),
        asdict(at) | {"tokens": tokens, "attempts": attempts},
        curve,
        best_step(job.train, curve),
        lambda folder: layouts.save(worker.engine, folder),
    )


def resume(worker: Worker) -> tuple[list[dict[str, Any]], int, list[str]]:
    """Load the newest whole checkpoint: the curve up to it (its length is the step to go on with), tokens, attempts."""
    job = worker.job
    url = storage.join(job.url, CHECKPOINTS)
    found: Saved | None = _agreed(checkpoints.latest(url, job.board.say.remote) if worker.rank == 0 else None)
    if found is None:
        return [], 0, [job.attempt]
    layout = Layout(worker.workers, job.compute.zero)
    if worker.rank == 0:
        other = f", where it had {found.layout}" if found.layout != layout else ""
        job.board.say.remote(f"training goes on after step {found.step} with {layout}{other}")
    layouts.load(worker.engine, url, found, layout)
    return list(found.curve), int(found.state["tokens"]), sorted({*found.state["attempts"], job.attempt})


def best_step(train: recipe.Train, curve: list[dict[str, Any]]) -> int | None:
    """The step of the best validation; None while there is none, or where the last step's student is taken."""
    return next(iter(early.ranked(curve, train.early_stopping.metric)), None) if train.early_stopping else None


def choose(worker: Worker, curve: list[dict[str, Any]]) -> int:
    """Load the student of the best validation that is still there; its step."""
    job, last = worker.job, len(curve)
    url = storage.join(job.url, CHECKPOINTS)
    for step in early.ranked(curve, job.train.early_stopping.metric) if job.train.early_stopping else []:
        if step == last:
            break
        found = _agreed(checkpoints.latest(url, job.board.say.remote, step) if worker.rank == 0 else None)
        if found:
            layouts.load(worker.engine, url, found, Layout(worker.workers, job.compute.zero))
            return step
    return last


def finish(worker: Worker, curve: list[dict[str, Any]], attempts: list[str], ended: dict[str, Any]) -> None:
    """Export the student, prove that the folder gives the same logits in plain transformers, and tell the board."""
    job, engine = worker.job, worker.engine
    student = engine.module.student
    micro = shortest(worker.corpora["train"], job.train.packing, worker.device)
    engine.eval()
    with torch.no_grad():
        logits_TV = student(**micro.inputs).logits[0].cpu()
    state = gathered(engine, keep=worker.rank == 0)
    if worker.rank == 0:
        with export.attempt(job.url) as (folder, name):
            if job.train.lora:
                student, state = adapters.detach(student, state, folder / ADAPTER, job.student)
            facts = export.save(student, job.student.folder(), folder, state)
            ids = micro.inputs["input_ids"][0].tolist()
            facts |= {"logits_difference": export.compare(folder, ids, logits_TV)}
            facts |= {"parameters": worker.parameters, "folder": name} | ended
            exported = export.Exported(name, export.publish(folder, name, job.url), facts)
        ray.get(job.board.finish.remote(exported, curve, attempts))
    dist.barrier()


def gathered(engine: Any, keep: bool) -> dict[str, Tensor]:
    """All weights on the CPU of the worker that keeps them; sharded ones are gathered one after another."""
    import deepspeed

    state: dict[str, Tensor] = {}
    sharded = engine.zero_optimization_stage() == 3
    student = engine.module.student
    for name, parameter in student.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter], enabled=sharded):
            if keep:
                state[name] = adapters.dense(parameter).cpu().clone()
    if keep:
        state |= {name: buffer.detach().cpu() for name, buffer in _buffers(student)}
    return state


def _buffers(module: torch.nn.Module) -> list[tuple[str, Tensor]]:
    """Buffers that belong to a state dict."""
    stored = set(module.state_dict())
    return [(name, buffer) for name, buffer in module.named_buffers() if name in stored]


def _agreed(value: Any) -> Any:
    """The first worker's value, for all."""
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def _is_true(answer: Any) -> bool:
    """An answer of the board, when it is there."""
    return bool(ray.wait([answer], timeout=0)[0]) and bool(ray.get(answer))

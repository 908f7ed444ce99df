"""The arms of train.py, each in a process of its own: train_arms.py ARM JOB RESULT."""

import dataclasses
import io
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HIDDEN, VOCABULARY, POSITIONS, K = 576, 128_256, 2048, 50
"""Of the memory arms: SmolLM2-135M's width under Llama 3's vocabulary, and raystill's default micro-batch."""


@dataclass(frozen=True)
class Job:
    """What all arms do: one pass over the same rows, `batch` rows to a step.

    `examples` and `targets` are raystill's artifacts of these rows, `tokens` its token file, `rows` a JSONL of input_ids
    and labels.
    """

    model: str
    examples: str
    targets: str
    tokens: str
    rows: str
    batch: int
    threads: int
    folder: str


@dataclass(frozen=True)
class Steps:
    """When each step ended, in seconds, and how many tokens had gone through the model by then."""

    at: list[float]
    tokens: list[int]


@dataclass(frozen=True)
class Pass:
    """What one forward and backward pass took: seconds, and bytes above what lay there before."""

    seconds: float
    bytes: int


def config(soft: bool) -> Any:
    """How raystill's arms train, and where they can be told the same, all others."""
    from raystill import recipe

    loss = recipe.Loss(kind="forward_kl") if soft else recipe.Loss()
    return recipe.Train(loss=loss, epochs=1, learning_rate=1e-4, warmup=0, schedule="constant", validations=0)


def raystill(job: Job, workers: int, soft: bool = False) -> Steps:
    """The train stage as `raystill run` calls it."""
    from raystill import recipe, session
    from raystill.artifacts import Checkpoint, Manifest, Table
    from raystill.context import Context
    from raystill.stages import train
    from raystill.view import Lines

    examples, targets = (Table(url, Path(url).name, Manifest.load(url)) for url in (job.examples, job.targets))
    compute = recipe.Compute(train=recipe.Workers(workers=workers, cpus=job.threads // workers))
    context = Context(f"{job.folder}/train/t", compute, Lines(io.StringIO()), 0.0, Path(job.folder))
    asked = config(soft).model_copy(update={"batch_size": job.batch})
    with session.ray_session(compute) as ensure:
        ensure()
        outcome = train.train(asked, None, examples, targets if soft else None, Checkpoint(job.model, "m"), [], context)
    (path,) = (f.path for f in outcome.files if f.path.endswith(train.CURVE))
    curve = [json.loads(line) for line in (Path(context.url) / path).read_text().splitlines()]
    return Steps([row["elapsed_s"] for row in curve], [row["tokens"] for row in curve])


def bare(job: Job) -> Steps:
    """DeepSpeed in a plain loop over the same micro-batches, all made before the clock starts; alone or under torchrun."""
    import torch
    import torch.distributed as dist

    from raystill import recipe
    from raystill.training import batches, documents, loop, optimizers, zero
    from raystill.training.learner import Learner
    from raystill.training.objective import Objective

    zero.environment(gpu=False)
    import deepspeed
    from transformers import AutoModelForCausalLM

    workers = int(os.environ.get("WORLD_SIZE", "1"))
    os.environ.setdefault("LOCAL_RANK", "0")
    alone = {"init_method": f"file://{job.folder}/meet", "rank": 0, "world_size": 1} if workers == 1 else {}
    dist.init_process_group("gloo", **alone)  # type: ignore[arg-type]
    torch.set_num_threads(job.threads // workers)
    train, compute, cpu = config(soft=False), recipe.Workers(), torch.device("cpu")
    model = AutoModelForCausalLM.from_pretrained(
        job.model, dtype=torch.float32, attn_implementation=documents.register()
    )
    corpus = batches.read(Path(job.tokens))["train"]
    learner = Learner(model, Objective())
    learner.look(loop.shortest(corpus, True, cpu))
    settings = zero.settings(compute.zero, train.clip, workers, model.num_parameters(), False, {})
    engine, *_ = deepspeed.initialize(model=learner, optimizer=optimizers.build(model, train), config=settings)
    plan = []
    for step in range(batches.steps(len(corpus), 1, job.batch)):
        at = batches.batch(len(corpus), 1, job.batch, train.seed, step)
        share = batches.deal([int(n) for n in corpus.lengths[at]], workers, compute.micro_tokens, True)
        micros = [batches.micro(corpus, [int(at[i]) for i in of], True, cpu) for of in share[dist.get_rank()]]
        plan.append((micros, batches.supervised(corpus, at), int(corpus.lengths[at].sum())))
    began, ends, tokens = time.perf_counter(), [], [0]
    for micros, supervised, of_step in plan:
        total = torch.zeros(())
        for i, micro in enumerate(micros):
            loss = engine(micro) * workers / supervised
            engine.set_gradient_accumulation_boundary(i == len(micros) - 1)
            engine.backward(loss)
            total += loss.detach()
        engine.step()
        float(total)
        ends.append(time.perf_counter() - began)
        tokens.append(tokens[-1] + of_step)
    return Steps(ends, tokens[1:])


def bare_beside_ray(job: Job) -> Steps:
    """The plain loop, in a process that has started a Ray and asks nothing of it."""
    from raystill import recipe, session

    with session.ray_session(recipe.Compute()) as ensure:
        ensure()
        return bare(job)


def trl(job: Job, packing: bool = False, teacher: bool = False) -> Steps:
    """TRL's SFTTrainer on the same rows; with a teacher its GKDTrainer on the given text, forward KL.

    Its own defaults, but without gradient checkpointing, which costs time, and in fp32, as the CPU wants it.
    """
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer
    from trl.experimental.gkd import GKDConfig, GKDTrainer
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    torch.set_num_threads(job.threads)
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    rows = [json.loads(line) for line in Path(job.rows).read_text().splitlines()]
    seen: list[int] = []
    ends: list[float] = []
    began = time.perf_counter()

    class Clock(TrainerCallback):  # type: ignore[misc]
        """Notes when a step ends."""

        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter() - began)

    kind, kinds = (GKDTrainer, GKDConfig) if teacher else (SFTTrainer, SFTConfig)
    settings = kinds(
        output_dir=job.folder,
        per_device_train_batch_size=1 if packing else job.batch,
        num_train_epochs=1,
        learning_rate=1e-4,
        lr_scheduler_type="constant",
        max_length=2048,
        packing=packing,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        **({"lmbda": 0.0, "beta": 0.0} if teacher else {}),
    )
    model = AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.float32)
    more = {}
    if teacher:
        more["teacher_model"] = AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.float32)
        more["data_collator"] = DataCollatorForLanguageModeling(tokenizer.pad_token_id)
    trainer = kind(
        model=model,
        args=settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[Clock()],
        **more,
    )
    collate = trainer.data_collator

    def counting(examples: list[Any]) -> Any:
        """Counts tokens as raystill does: each row's last one is only ever predicted."""
        seen.append(sum(len(e["input_ids"]) - len(e.get("seq_lengths", [0])) for e in examples))
        return collate(examples)

    trainer.data_collator = counting
    began = time.perf_counter()
    trainer.train()
    totals = [sum(seen[: i + 1]) for i in range(len(ends))]
    return Steps(ends, totals)


def memory(job: Job, dense: bool) -> Pass:
    """The output head and forward KL, forward and backward: from top-k targets in chunks, or from all logits at once."""
    import torch

    from raystill import recipe
    from raystill.training import chunks
    from raystill.training.objective import Soft, objective

    torch.set_num_threads(job.threads)
    torch.manual_seed(0)
    hidden_NH = torch.randn(POSITIONS, HIDDEN).requires_grad_()
    weight_VH = torch.randn(VOCABULARY, HIDDEN).mul_(0.05).requires_grad_()
    loss = objective(recipe.Loss(kind="forward_kl"), 1.0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    labels_N = torch.zeros(POSITIONS, dtype=torch.int64)
    if dense:
        teacher_NV = torch.randn(POSITIONS, VOCABULARY).log_softmax(1)
    else:
        ids_NK = (torch.randint(VOCABULARY, (POSITIONS, 1)) + 997 * torch.arange(K)) % VOCABULARY
        soft = Soft(ids_NK, torch.randn(POSITIONS, K + 1).log_softmax(1), torch.ones(POSITIONS), True)
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        if dense:
            student_NV = (hidden_NH @ weight_VH.T).log_softmax(1)
            torch.nn.functional.kl_div(student_NV, teacher_NV, reduction="sum", log_target=True).backward()
            del student_NV
        else:
            chunks.summed(hidden_NH, weight_VH, lambda z, at: loss(z, labels_N[at], soft[at]).sum()).backward()
        seconds.append(time.perf_counter() - began)
        hidden_NH.grad = weight_VH.grad = None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Pass(statistics.median(seconds), (peak - before) * 1024)


ARMS: dict[str, Callable[[Job], Steps | Pass]] = {
    "raystill": lambda job: raystill(job, 1),
    "bare": bare,
    "bare-ray": bare_beside_ray,
    "raystill-2": lambda job: raystill(job, 2),
    "torchrun-2": bare,
    "trl-sft": trl,
    "trl-sft-packed": lambda job: trl(job, packing=True),
    "raystill-kd": lambda job: raystill(job, 1, soft=True),
    "trl-gkd": lambda job: trl(job, teacher=True),
    "kd-sparse": lambda job: memory(job, dense=False),
    "kd-dense": lambda job: memory(job, dense=True),
}

if __name__ == "__main__":
    arm, job_file, result_file = sys.argv[1:]
    result = ARMS[arm](Job(**json.loads(Path(job_file).read_text())))
    if os.environ.get("RANK", "0") == "0":
        Path(result_file).write_text(json.dumps(dataclasses.asdict(result)))

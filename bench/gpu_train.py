"""How well a student's training fills one GPU: raystill's learner against a bare loop, soft targets against text.

    python bench/gpu_train.py [--sizes 0.6B 4B] [--steps 12] [--arms ...]

Needs torch and transformers and what raystill itself imports for its losses; no Ray. Students have random weights in the
shapes of Qwen3-0.6B and Qwen3-4B (vocabulary 151,936), in bf16. Where DeepSpeed is installed all arms but TRL's train through
it, with raystill's ZeRO 1 settings and fp32 master weights; elsewhere with torch's AdamW on bf16 weights, in both arms alike.

Arms, each in a process of its own, per size:

    raystill      its learner: documents packed into a row, logits of supervised positions alone, in chunks; with flash
                  attention and Liger's kernels where they are installed
    bare          a plain loop: the same documents as rows of one batch, transformers' own logits of all positions
    raystill-kd   forward KL from top-50 targets with their tail
    trl           TRL's SFTTrainer on the same documents, where it is installed
    kd-sparse     the output head and the loss alone at vocabulary 128,256: top-50 targets in chunks
    kd-dense      the same from all logits at once

MFU is model FLOPs by the device's peak (raystill.training.gauges and peaks): None where the peak is not known. Each rate is
the median over steps after the first three.

Not run yet: no GPU has been at hand. Expected before measuring, on an H100: MFU of raystill 0.40 or more at both sizes;
raystill / bare 1.0-1.2, for the logits of prompts that are not made; a KD step within 1.10 of a text step; memory of sparse
KD at most a quarter of dense.
"""

import argparse
import importlib.util
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import alone
import machine

ARMS = ("raystill", "bare", "raystill-kd", "trl", "kd-sparse", "kd-dense")
K, WARM_UP = 50, 3
VOCABULARY = 128_256
"""Of the arms with the head alone: Llama 3's."""
SIZES: dict[str, dict[str, int]] = {
    "0.6B": {
        "hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "intermediate_size": 3072,
        "micro_tokens": 8192,
    },
    "4B": {
        "hidden_size": 2560, "num_hidden_layers": 36, "num_attention_heads": 32, "intermediate_size": 9728,
        "micro_tokens": 2048,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """What all arms of a size do: `micros` micro-batches to a step, each of `documents` documents of `length` tokens.

    The first quarter of a document is its prompt, and is not learnt.
    """

    size: str
    model: dict[str, int]
    """What of a Qwen3 config differs from the rest of the family."""
    documents: int
    length: int
    micros: int
    steps: int
    positions: int = 2048
    vocabulary: int = VOCABULARY
    """Of the arms with the head alone."""
    folder: str = ""

    @property
    def supervised(self) -> int:
        """Tokens of a step that are learnt."""
        return self.micros * self.documents * (self.length - self.length // 4)

    @property
    def tokens(self) -> int:
        """Tokens of a step that go through the model."""
        return self.micros * self.documents * self.length


@dataclass(frozen=True)
class Run:
    """One arm at one size. `seconds` are a step's, or a pass of the head's; `bytes` the most that was held."""

    arm: str
    size: str
    seconds: float
    bytes: int
    tokens_per_s: float | None = None
    mfu: float | None = None
    losses: tuple[float, ...] = ()
    """Mean loss of each step: equal in raystill and bare, which see the same documents."""


def device() -> Any:
    """The GPU, or the CPU where there is none."""
    import torch

    return torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")


def student(job: Job, attention: str) -> Any:
    """A random model in bf16 on a GPU, in fp32 on a CPU; the same for every arm."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen3Config

    torch.manual_seed(0)
    family = {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936, "tie_word_embeddings": True}
    config = Qwen3Config(**family | job.model, max_position_embeddings=max(4096, job.length))
    with device():
        dtype = torch.bfloat16 if device().type == "cuda" else torch.float32
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention).train()


def documents_of(job: Job, step: int, micro: int, vocabulary: int) -> Any:
    """Random ids [documents, length + 1]: the last column is only predicted."""
    import torch

    seed = torch.Generator().manual_seed(1000 * step + micro)
    return torch.randint(0, vocabulary, (job.documents, job.length + 1), generator=seed).to(device())


def packed(job: Job, ids: Any, soft: Any = None) -> Any:
    """Documents as raystill's workers pack them: what `raystill.training.batches.micro` makes of rows of tokens."""
    import torch

    from raystill.training import documents

    at = torch.arange(job.length, device=ids.device).repeat(job.documents)
    columns_N = torch.nonzero(at >= job.length // 4).flatten()
    return SimpleNamespace(
        inputs={
            "input_ids": ids[:, :-1].flatten()[None],
            "position_ids": at[None],
            "documents": documents.packed([job.length] * job.documents, ids.device),
            "use_cache": False,
        },
        rows_N=torch.zeros_like(columns_N),
        columns_N=columns_N,
        labels_N=ids[:, 1:].flatten()[columns_N],
        weights_N=torch.ones(len(columns_N), device=ids.device),
        soft=soft,
        view=None,
    )


def targets(positions: int, vocabulary: int) -> Any:
    """Top-k targets with their tails of random distributions."""
    import torch

    from raystill.training.objective import Soft

    ids_NK = torch.randint(0, vocabulary // K, (positions, K), device=device()) + torch.arange(K, device=device()) * (
        vocabulary // K
    )
    teacher_NC = torch.randn(positions, K + 1, device=device()).log_softmax(1)
    return Soft(ids_NK, teacher_NC, torch.ones(positions, device=device()), True)


def learn(job: Job, module: Any, micro_of: Callable[[int, int], Any], look: Callable[[float], None]) -> list[float]:
    """Train; the seconds of each step, whose end the device is waited for. `look` gets each step's mean loss."""
    import torch

    backward, step_of = _optimizer(module)
    seconds = []
    for step in range(job.steps):
        micros = [micro_of(step, i) for i in range(job.micros)]
        _wait()
        began, mean = time.perf_counter(), 0.0
        for i, micro in enumerate(micros):
            loss = module(micro) / job.supervised
            mean += float(loss.detach())  # raystill's loop looks at each one too
            backward(loss, i == job.micros - 1)
        step_of()
        _wait()
        seconds.append(time.perf_counter() - began)
        look(mean)
    torch.cuda.empty_cache()
    return seconds


def _optimizer(module: Any) -> tuple[Callable[[Any, bool], None], Callable[[], None]]:
    """Backward pass (of the step's last micro-batch or another), and step."""
    import torch

    cuda = device().type == "cuda"
    parameters = list(module.parameters())
    adam = torch.optim.AdamW(parameters, lr=1e-5, fused=cuda)
    if cuda and importlib.util.find_spec("deepspeed"):
        import deepspeed
        import torch.distributed as dist

        from raystill.training import zero

        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
        zero.environment(gpu=True)
        dist.init_process_group("nccl", init_method=f"file://{tempfile.mkdtemp()}/meet", rank=0, world_size=1)
        settings = zero.settings(1, 1.0, 1, sum(p.numel() for p in parameters), True, {})
        engine, *_ = deepspeed.initialize(model=module, optimizer=adam, config=settings)

        def through(loss: Any, last: bool) -> None:
            engine.set_gradient_accumulation_boundary(last)
            engine.backward(loss)

        return through, engine.step

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        adam.step()
        adam.zero_grad()

    return lambda loss, _: loss.backward(), step


def _wait() -> None:
    import torch

    if device().type == "cuda":
        torch.cuda.synchronize()


def measured(job: Job, arm: str, model: Any, seconds: Sequence[float], losses: Sequence[float]) -> Run:
    """A training arm's figures."""
    from raystill.training import gauges

    typical = statistics.median(seconds[WARM_UP:])
    work = gauges.work(model)
    flops = work.flops([job.length] * job.documents * job.micros, job.supervised) if work else None
    peak = gauges.gauges(model, device(), 1).peak
    return Run(
        arm=arm,
        size=job.size,
        seconds=typical,
        bytes=gauges.peak_bytes(device()),
        tokens_per_s=job.tokens / typical,
        mfu=flops / typical / peak if flops and peak else None,
        losses=tuple(losses),
    )


def raystill(job: Job, soft: bool = False) -> Run:
    """The learner that a train worker wraps, over packed rows."""
    from raystill import losses as kinds
    from raystill import plugins
    from raystill.training import documents, kernels
    from raystill.training.learner import Learner
    from raystill.training.objective import Objective

    model = student(job, documents.register())
    objective = Objective(plugins.load("forward_kl", kinds.KINDS, "loss")) if soft else Objective()
    learner, size = Learner(model, objective), model.config.vocab_size
    given = targets(job.supervised // job.micros, size) if soft else None
    learner.look(packed(job, documents_of(job, 0, 0, size)))
    if device().type == "cuda":
        kernels.fit(model)
    losses: list[float] = []
    seconds = learn(job, learner, lambda s, i: packed(job, documents_of(job, s, i, size), given), losses.append)
    return measured(job, "raystill-kd" if soft else "raystill", model, seconds, losses)


def bare(job: Job) -> Run:
    """What one writes by hand: a batch of rows, all logits, cross-entropy where the mask says."""
    import torch
    from torch.nn import functional as F

    class Plain(torch.nn.Module):
        """A model with its summed loss."""

        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Any) -> Any:
            logits = self.model(input_ids=ids[:, :-1], use_cache=False).logits[:, job.length // 4 :]
            labels = ids[:, 1 + job.length // 4 :]
            return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="sum")

    plain, losses = Plain(student(job, "sdpa")), list[float]()
    size = plain.model.config.vocab_size
    seconds = learn(job, plain, lambda s, i: documents_of(job, s, i, size), losses.append)
    return measured(job, "bare", plain.model, seconds, losses)


def trl(job: Job) -> Run:
    """TRL's SFTTrainer with its defaults, but no gradient checkpointing, over the same documents."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    model, cuda = student(job, "sdpa"), device().type == "cuda"
    words = {"<pad>": 0, "<eos>": 1}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<pad>")), pad_token="<pad>", eos_token="<eos>"
    )
    rows = [
        {"input_ids": ids, "completion_mask": [0] * (job.length // 4) + [1] * (job.length - job.length // 4)}
        for step in range(job.steps)
        for i in range(job.micros)
        for ids in documents_of(job, step, i, model.config.vocab_size)[:, :-1].tolist()
    ]
    ends: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        """Notes when a step ends."""

        def on_step_end(self, *_: Any, **__: Any) -> None:
            _wait()
            ends.append(time.perf_counter())

    settings = SFTConfig(
        output_dir=job.folder,
        max_steps=job.steps,
        per_device_train_batch_size=job.documents,
        gradient_accumulation_steps=job.micros,
        max_length=job.length,
        use_cpu=not cuda,
        bf16=cuda,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = SFTTrainer(
        model=model,
        args=settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[Clock()],
    )
    ends.append(time.perf_counter())
    trainer.train()
    return measured(job, "trl", model, [b - a for a, b in itertools.pairwise(ends)], ())


def head(job: Job, dense: bool) -> Run:
    """The output head and forward KL, forward and backward: from top-k targets in chunks, or from all logits at once."""
    import torch
    from torch.nn import functional as F

    from raystill import losses as kinds
    from raystill import plugins
    from raystill.training import chunks, gauges
    from raystill.training.objective import Objective

    torch.manual_seed(0)
    dtype = torch.bfloat16 if device().type == "cuda" else torch.float32
    with device():
        hidden_NH = torch.randn(job.positions, job.model["hidden_size"], dtype=dtype).requires_grad_()
        weight_VH = (0.05 * torch.randn(job.vocabulary, job.model["hidden_size"], dtype=dtype)).requires_grad_()
        labels_N = torch.zeros(job.positions, dtype=torch.int64)
    loss = Objective(plugins.load("forward_kl", kinds.KINDS, "loss"))
    before = torch.cuda.memory_allocated() if device().type == "cuda" else gauges.peak_bytes(device())
    if dense:
        teacher_NV = torch.randn(job.positions, job.vocabulary, device=device(), dtype=dtype).float().log_softmax(1)
    else:
        soft = targets(job.positions, job.vocabulary)
    seconds = []
    for _ in range(WARM_UP + 3):
        _wait()
        began = time.perf_counter()
        if dense:
            student_NV = (hidden_NH @ weight_VH.T).float().log_softmax(1)
            F.kl_div(student_NV, teacher_NV, reduction="sum", log_target=True).backward()
            del student_NV
        else:
            chunks.summed(hidden_NH, weight_VH, lambda z, at: loss(z, labels_N[at], soft[at]).sum()).backward()
        _wait()
        seconds.append(time.perf_counter() - began)
        hidden_NH.grad = weight_VH.grad = None
    held = gauges.peak_bytes(device()) - before
    return Run("kd-dense" if dense else "kd-sparse", job.size, statistics.median(seconds[WARM_UP:]), held)


RUN: dict[str, Callable[[Job], Run]] = {
    "raystill": raystill,
    "bare": bare,
    "raystill-kd": lambda job: raystill(job, soft=True),
    "trl": trl,
    "kd-sparse": lambda job: head(job, dense=False),
    "kd-dense": lambda job: head(job, dense=True),
}


def job_of(size: str, length: int, steps: int) -> Job:
    """A size's job: about 16,384 tokens to a step, in micro-batches that an 80 GB GPU holds."""
    model = dict(SIZES[size])
    documents = max(1, model.pop("micro_tokens") // length)
    return Job(size, model, documents, length, max(1, 16_384 // (documents * length)), steps)


def summary(runs: Sequence[Run]) -> dict[str, dict[str, float | None]]:
    """Per size, the ratios and MFU of the JSON line; None where an arm did not run."""
    found: dict[str, dict[str, float | None]] = {}
    for size in dict.fromkeys(r.size for r in runs):
        by = {r.arm: r for r in runs if r.size == size}
        found[size] = {
            "mfu": by["raystill"].mfu if "raystill" in by else None,
            "bare_ratio": _ratio(by, "seconds", "bare", "raystill"),
            "trl_sft_ratio": _ratio(by, "seconds", "trl", "raystill"),
            "sparse_kd_step_ratio": _ratio(by, "seconds", "raystill-kd", "raystill"),
            "kd_memory_ratio": _ratio(by, "bytes", "kd-sparse", "kd-dense"),
            "kd_time_ratio": _ratio(by, "seconds", "kd-sparse", "kd-dense"),
        }
    return found


def _ratio(by: dict[str, Run], value: str, over: str, under: str) -> float | None:
    if over not in by or under not in by:
        return None
    return round(float(getattr(by[over], value) / getattr(by[under], value)), 3)


def table(runs: Sequence[Run]) -> Iterator[str]:
    """One line per run."""
    yield f"{'size':<6} {'arm':<12} {'s':>8} {'tokens/s':>10} {'MFU':>6} {'GB':>7}"
    for r in runs:
        speed = f"{r.tokens_per_s:,.0f}" if r.tokens_per_s else ""
        share = f"{r.mfu:.3f}" if r.mfu else ""
        yield f"{r.size:<6} {r.arm:<12} {r.seconds:>8.3f} {speed:>10} {share:>6} {r.bytes / 1e9:>7.2f}"


def main() -> int:
    """Run the arms and print the table and the JSON line; 1 when one of raystill and bare has no figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=SIZES)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--length", type=int, default=1024, help="tokens of a document")
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    runs = []
    for size in options.sizes:
        for arm in options.arms:
            if arm == "trl" and not importlib.util.find_spec("trl"):
                print("trl: left out, it is not installed", flush=True)
                continue
            try:
                made = alone.result("gpu_train.py", arm, asdict(job_of(size, options.length, options.steps)), 900)
            except RuntimeError as e:
                print(f"{size} {e}", flush=True)
                continue
            runs.append(Run(**made))
            print(f"{size} {arm}: {runs[-1].seconds:.3f} s", flush=True)
    print("\n".join(["", *table(runs), ""]), flush=True)
    line = {
        "bench": "gpu_train",
        "sizes": summary(runs),
        "command": " ".join(["python", "bench/gpu_train.py", *sys.argv[1:]]),
    }
    print(json.dumps(line | {"deepspeed": importlib.util.find_spec("deepspeed") is not None} | machine.seen()
                     | {"runs": [asdict(r) for r in runs]}))  # fmt: skip
    complete = all(found["bare_ratio"] is not None for found in summary(runs).values())
    return 0 if runs and complete else 1


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] in RUN:
        arm, job_file, result_file = sys.argv[1:]
        made = RUN[arm](Job(**json.loads(Path(job_file).read_text())))
        Path(result_file).write_text(json.dumps(asdict(made)))
    else:
        sys.exit(main())

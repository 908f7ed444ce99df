"""What a train worker must hold, worked out before it starts. Arithmetic only: no torch.

P = parameters, H = hidden size, Q = attention heads times their size, I = width of the feed-forward layer, V = vocabulary.
The two moments and the fp32 master copy are Rajbhandari et al. 2020 (ZeRO), section 3.1; what autograd keeps of a layer is
counted from transformers' Llama, with norms in fp32 and scaled-dot-product attention (a test counts it with torch).
"""

import os
from dataclasses import dataclass

import psutil

from raystill import memory, recipe
from raystill.engine import on_cluster
from raystill.memory import GB
from raystill.shapes import Shape
from raystill.training import offload
from raystill.training.zero import BUCKET

LOGITS_BYTES = 256 << 20
"""A chunk of float32 logits (`chunks.CHUNK_BYTES`), with its softmax, its gradient and the loss's own copy."""
NF4_BYTES = 0.52
"""Of a weight in 4 bits: 0.5, and the twice quantised scales of blocks of 64 (Dettmers et al. 2023, QLoRA, section 3)."""
PROCESS_BYTES = {True: 600 << 20, False: 1 << 30}
"""A worker before its model, by whether it is on a GPU: the CUDA context, or Python with torch, Ray and DeepSpeed."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of one worker, by part. `step` is what the optimizer needs on top while activations are gone."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    head: float
    step: float
    process: float

    @property
    def total(self) -> float:
        """At its fullest: in the backward pass, or in the optimizer's step."""
        held = self.weights + self.gradients + self.optimizer + self.process
        return held + max(self.activations + self.head, self.step)

    def __str__(self) -> str:
        passing = {"activations": self.activations, "output head": self.head}
        if self.step > self.activations + self.head:
            passing = {"the optimizer's step": self.step}
        held = {"weights": self.weights, "gradients": self.gradients, "optimizer": self.optimizer}
        parts = held | passing | {"the process": self.process}
        return f"{self.total / GB:.1f} GB: " + ", ".join(f"{name} {size / GB:.1f}" for name, size in parts.items())


def footprint(
    shape: Shape, train: recipe.Train, compute: recipe.Workers, workers: int, gpu: bool, teacher: Shape | None = None
) -> Footprint | None:
    """That of one of so many workers at its longest micro-batch, with the weights of a `teacher` that sits beside it.

    None for a model whose parameters are not known.
    """
    if shape.body is None or shape.parameters is None or (teacher and teacher.parameters is None):
        return None
    word, table = (2 if gpu else 4), shape.vocabulary * shape.hidden
    if train.lora:
        trained = adapter_parameters(shape, train.lora)
        body = NF4_BYTES * shape.body if train.lora.quantize else word * shape.body
        weights = body + word * (shape.parameters - shape.body + trained)
    else:
        trained, weights = shape.parameters, word * shape.parameters
    offloaded = {part for part in ("optimizer", "param") if offload.device(train.deepspeed, f"offload_{part}")}
    shared = trained / (workers if compute.zero >= 1 else 1)
    # Without ZeRO and in fp32 the weights are their own master copy.
    states = (0 if compute.zero == 0 and not gpu else 4) + (2 if train.optimizer == "adamw_8bit" else 8)
    bucket = min(shape.parameters, BUCKET) * word * (2 if gpu else 1)
    tokens = max(compute.micro_tokens, train.max_length)
    # ZeRO steps on one flat tensor: its gradients twice and Adam's two intermediates lie beside it. Without, one by one.
    step = 16 * shared if compute.zero >= 1 else 12 * trained if gpu else 8 * table
    own = 0 if "param" in offloaded else weights / (workers if compute.zero == 3 else 1)
    return Footprint(
        weights=own + (word * teacher.parameters if teacher and teacher.parameters else 0),
        gradients=word * trained / (workers if compute.zero >= 2 else 1) + bucket * (compute.zero >= 1),
        optimizer=0 if "optimizer" in offloaded else states * shared,
        activations=tokens * activation_bytes(shape, word, compute.activation_checkpointing),
        head=LOGITS_BYTES + (0 if train.lora else table * (4 + word)),
        step=0 if "optimizer" in offloaded else step,
        process=PROCESS_BYTES[gpu],
    )


def adapter_parameters(shape: Shape, lora: recipe.Lora) -> int:
    """r numbers for each input and each output of the adapted layers; all linear ones but the head unless they are named."""
    width, keys = shape.heads * shape.head, shape.of_keys * shape.head
    ends = {
        "q_proj": shape.hidden + width,
        "k_proj": shape.hidden + keys,
        "v_proj": shape.hidden + keys,
        "qkv_proj": shape.hidden + width + 2 * keys,
        "o_proj": width + shape.hidden,
        "gate_proj": shape.hidden + shape.inner,
        "up_proj": shape.hidden + shape.inner,
        "gate_up_proj": shape.hidden + 2 * shape.inner,
        "down_proj": shape.inner + shape.hidden,
    }
    apart = {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"}
    fused = {"qkv_proj", "gate_up_proj"}
    own = ends.keys() - (apart if shape.family == "phi3" else fused)
    named = own if lora.targets is None else {t.rpartition(".")[2] for t in lora.targets} & own
    return shape.layers * lora.r * sum(ends[name] for name in named)


def activation_bytes(shape: Shape, word: int, again: bool = False) -> int:
    """What a token keeps for the backward pass, with numbers of `word` bytes; `again`: where layers are computed again.

    A layer: two norms (their input in fp32, its quotient) and their products, queries, keys and values repeated to all heads,
    attention's output as it leaves and as it is projected, and four times the feed-forward layer. Qwen3 also norms queries
    and keys.
    """
    width = shape.heads * shape.head
    norms = 2 * shape.hidden * (4 + 2 * word)
    if shape.family == "qwen3":
        norms += (width + shape.of_keys * shape.head) * (4 + word)
    layer = norms + 5 * width * word + 4 * shape.inner * word
    kept = shape.layers * shape.hidden * word + layer if again else shape.layers * layer
    return kept + 2 * shape.hidden * word


@dataclass(frozen=True)
class Room:
    """What training finds here: workers, whether each has a GPU, and the bytes that each may hold."""

    workers: int
    gpu: bool
    each: int
    threads: int


def room(compute: recipe.Workers) -> Room | None:
    """This machine's, as `stages.train.layout` will share it; None on a cluster, whose nodes are other machines."""
    if on_cluster():
        return None
    cores, gpus = os.cpu_count() or 1, memory.gpu_sizes()
    workers = least(compute) or len(gpus) or max(1, cores // 2)
    each = min(gpus) if gpus else psutil.virtual_memory().total // workers
    return Room(workers, bool(gpus), each, compute.cpus or max(1, cores // workers))


def least(compute: recipe.Workers) -> int | None:
    """The fewest workers that the recipe takes: each holds most then."""
    return compute.workers[0] if isinstance(compute.workers, tuple) else compute.workers


def advice(of: Footprint, compute: recipe.Workers) -> str:
    """What to type when it does not fit: what lowers its largest part."""
    if of.activations + of.head > max(of.step, of.weights + of.gradients + of.optimizer):
        again = "" if compute.activation_checkpointing else "compute.train.activation_checkpointing: true, or "
        return f"{again}lower compute.train.micro_tokens (now {compute.micro_tokens}) and, if examples can be short, max_length"
    if compute.zero < 3:
        return f"raise compute.train.zero (now {compute.zero}) or compute.train.workers, which share what they hold"
    return "train: {lora: {}}, or deepspeed: {zero_optimization: {offload_optimizer: {device: cpu}}}, or more workers"

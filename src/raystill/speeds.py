"""How fast a model answers, scores and learns on a kind of machine, worked out before any run. Arithmetic only.

A decode step reads the weights and the cache of every sequence of the batch once, or computes 2 P for each sequence,
whichever takes longer; a prompt computes 2 P a token; learning 6 P (Kaplan et al. 2020, section 2.1). P = parameters that
a token passes. Nothing reaches the data sheet's figures: the shares below are what public runs reach (docs/plan.md has
them beside what is worked out here; a test holds both within a factor of two).
"""

import os
from dataclasses import dataclass

import psutil

from raystill import memory, recipe
from raystill.launch.gpus import KINDS, Node
from raystill.provenance import output
from raystill.shapes import Shape

READS, ANSWERS, LEARNS = 0.6, 0.4, 0.3
"""Shares reached: of the memory's bandwidth, and of the arithmetic while a prompt is read and while a model learns."""
BATCH = 256
"""Sequences that vLLM runs at once, unless max_num_seqs says otherwise."""


@dataclass(frozen=True)
class Device:
    """One GPU, or one CPU core with its share of the machine's memory."""

    name: str
    memory: float
    """Bytes."""
    flops: float
    """A second: bf16 on a GPU, fp32 on a core."""
    bandwidth: float
    """Bytes a second."""
    fp8: bool
    step_s: float
    """What an engine spends on a step beside the model, and on each of its sequences."""
    sequence_s: float
    gpu: bool = True

    def peak(self, shape: Shape) -> float:
        """Operations a second for weights as this model stores them."""
        return self.flops * (2 if self.fp8 and shape.stored == 1 else 1)

    def word(self, shape: Shape) -> float:
        """Bytes of a weight as an engine holds it."""
        return (shape.stored if self.fp8 or shape.stored == 2 else 2) if self.gpu else 4


def of_node(kind: str, node: Node) -> Device:
    """A GPU of this type."""
    return Device(kind, node.gb * 1e9, node.tflops * 1e12, node.tb_per_s * 1e12, node.fp8, 2e-3, 1e-5)


def core() -> Device:
    """A core of this machine, as a server's core of 2020 and later is."""
    share = psutil.virtual_memory().total / (os.cpu_count() or 1)
    return Device("core", share, 200e9, 10e9, False, 20e-3, 1.5e-4, gpu=False)


def kind_here() -> str | None:
    """The type of this machine's GPUs by its name in compute.kubernetes.gpu; None without any, or where it is not known."""
    name = (output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader") or "").partition("\n")[0]
    label = name.strip().replace(" ", "-")
    return next((kind for kind, node in KINDS.items() if label and label.startswith(node.product)), None)


@dataclass(frozen=True)
class Engine:
    """A model on so many devices, for rows of so many tokens."""

    shape: Shape
    device: Device
    devices: int
    prompt: float
    answer: float
    most: int = BATCH

    @property
    def weights(self) -> float:
        """Bytes on each device."""
        return (self.shape.parameters or 0) * self.device.word(self.shape) / self.devices

    @property
    def row(self) -> float:
        """Bytes that a row's cache takes of all devices together, at its end."""
        return self.shape.cached * (2 if self.device.gpu else 4) * (self.prompt + self.answer)

    @property
    def batch(self) -> int:
        """Rows at once: those whose caches fit beside the weights."""
        room = (self.device.memory * memory.UTILIZATION - self.weights) * self.devices
        return max(1, min(self.most, int(room / self.row)))

    def step_s(self, rows: int) -> float:
        """One token for each of so many rows; on average a row is half answered."""
        whole = self.weights * self.devices + rows * self.row * (self.prompt + self.answer / 2) / (
            self.prompt + self.answer
        )
        read = whole / (self.devices * self.device.bandwidth * READS)
        return max(read, rows * self.token_s) + self.device.step_s + rows * self.device.sequence_s

    @property
    def token_s(self) -> float:
        """One token's forward pass where many are computed together."""
        return 2 * active(self.shape) / (self.devices * self.device.peak(self.shape) * ANSWERS)

    def answers_s(self, rows: float, at_once: int | None = None) -> float:
        """So many rows asked and answered, at most so many at once."""
        batch = min(self.batch, at_once or self.batch)
        return rows * (self.prompt * self.token_s + self.answer * self.step_s(batch) / batch)


def active(shape: Shape) -> float:
    """Parameters that a token passes."""
    return shape.active or shape.parameters or 0


def learns_s(shape: Shape, train: recipe.Train, again: bool, device: Device, teacher: Shape | None = None) -> float:
    """One token learnt on one device; `again`: activations are computed twice; beside a live teacher, its pass too.

    With LoRA no gradient of the model's own weights is computed.
    """
    passes = (4 if train.lora else 6) + (2 if again else 0)
    work = passes * active(shape) + (2 * active(teacher) if teacher else 0)
    return work / (device.flops * LEARNS)


def fewest(shape: Shape, device: Device, row_tokens: float) -> int:
    """Devices, a power of two, that hold a model and one row of so many tokens. On cores: all that there are."""
    held = (shape.parameters or 0) * device.word(shape) + shape.cached * 2 * row_tokens
    count = 1
    while count * device.memory * memory.UTILIZATION < held:
        count *= 2
    return count

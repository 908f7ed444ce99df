"""What a row of the curve says about the machine: tokens per second, utilisation, memory.

Read from clocks and counters alone, so that a step is not held up: by the end of `loop.one_step` the device has been waited
for already.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from raystill import memory
from raystill.training import peaks


@dataclass(frozen=True)
class Work:
    """What decides the floating-point operations of a step. Frozen weights are passed through, but have no gradient."""

    body: int
    """Parameters that every token meets: all but the input embedding and the output head."""
    trained: int
    """Those of them that are trained."""
    head: int
    """Parameters of the output head, which meets supervised tokens alone."""
    head_trained: bool
    width: int
    """Layers times attention heads times their size."""
    window: int | None = None
    """Tokens that attention looks back on, itself included; None: all."""

    def flops(self, lengths: Sequence[int], supervised: int) -> float:
        """Forward and backward pass over documents of these lengths, with so many supervised tokens.

        6 per parameter and token, and 12 * width per token and token attended to: Chowdhery et al. 2022 (PaLM), appendix B,
        but attention is causal, so a token attends only to itself and those before it. Recomputation (checkpointing) does
        not count.
        """
        of_body = (4 * self.body + 2 * self.trained) * sum(lengths)
        of_head = (6 if self.head_trained else 4) * self.head * supervised
        return of_body + of_head + 12 * self.width * sum(map(self._pairs, lengths))

    def _pairs(self, length: int) -> int:
        seen = min(length, self.window or length)
        return seen * (seen + 1) // 2 + (length - seen) * seen


def work(model: Any) -> Work | None:
    """That of a causal model of transformers; None where a token does not meet every parameter (experts)."""
    config, embedding, head = model.config, model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or any("expert" in key for key in config.to_dict()):
        return None
    outside = {id(m.weight): m.weight for m in (embedding, head)}.values()
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Work(
        body=model.num_parameters() - sum(w.numel() for w in outside),
        trained=model.num_parameters(only_trainable=True) - sum(w.numel() for w in outside if w.requires_grad),
        head=head.weight.numel(),
        head_trained=head.weight.requires_grad,
        width=config.num_hidden_layers * heads * size,
        window=getattr(config, "sliding_window", None),
    )


@dataclass(frozen=True)
class Gauges:
    """What one worker's gauges need to know. `peak` is the operations per second that its device could do, where known."""

    work: Work | None
    peak: float | None
    device: torch.device
    workers: int

    def read(self, lengths: Sequence[int], supervised: int, seconds: float) -> dict[str, float | None]:
        """Scalars of a step over all workers that took so long; `memory_bytes` is this worker's peak so far."""
        flops = self.work.flops(lengths, supervised) if self.work and self.peak else None
        return {
            "tokens_per_s": round(sum(lengths) / seconds, 1),
            "supervised_tokens_per_s": round(supervised / seconds, 1),
            "mfu": round(flops / seconds / self.workers / self.peak, 4) if flops and self.peak else None,
            "memory_bytes": peak_bytes(self.device),
        }


def gauges(model: Any, device: torch.device, workers: int) -> Gauges:
    """Those of a model that is not sharded yet."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return Gauges(work(model), peaks.bf16_flops(name), device, workers)


def peak_bytes(device: torch.device) -> int:
    """Most memory held so far: on a GPU by tensors, else by this process."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else memory.peak_rss()

"""What the loss costs on top of the output head: text against soft targets, in chunks against all logits at once.

    python bench/head.py

One forward and backward pass of the head and the loss alone, at the hidden size and vocabulary of SmolLM2-135M; a whole
training step also has the layers, so ratios there are nearer to 1. CPU seconds of one thread, the best of --repeats, arms
interleaved: other processes then disturb little.

Expected: in chunks within 10% of all logits at once, and soft targets within 10% of text.
"""

import argparse
import datetime
import json
import os
import platform
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from raystill import recipe
from raystill.training import chunks
from raystill.training.objective import Objective, Soft, objective

POSITIONS, HIDDEN, VOCABULARY, K = 512, 576, 49_152, 50


def targets() -> Soft:
    """Top-k targets with their tails of random distributions."""
    logits_NV = 3 * torch.randn(POSITIONS, VOCABULARY, generator=torch.Generator().manual_seed(0))
    logprobs_NV = logits_NV.log_softmax(1)
    kept_NK, ids_NK = logprobs_NV.topk(K)
    tail_N1 = logprobs_NV.scatter(1, ids_NK, -torch.inf).logsumexp(1, keepdim=True)
    return Soft(ids_NK, torch.cat([kept_NK, tail_N1], 1), torch.ones(POSITIONS), True)


def arms() -> dict[str, Callable[[], Tensor]]:
    """The loss of each arm, with gradients for hidden states and head."""
    generator = torch.Generator().manual_seed(0)
    hidden_NH = torch.randn(POSITIONS, HIDDEN, generator=generator).requires_grad_()
    weight_VH = (0.05 * torch.randn(VOCABULARY, HIDDEN, generator=generator)).requires_grad_()
    labels_N = torch.randint(0, VOCABULARY, (POSITIONS,), generator=generator)
    soft = targets()

    def in_chunks(loss: Objective) -> Callable[[], Tensor]:
        return lambda: chunks.summed(hidden_NH, weight_VH, lambda z, at: loss(z, labels_N[at], soft[at]).sum())

    def with_loss(**keys: Any) -> Objective:
        return objective(recipe.Loss(**keys), 1.0)

    return {
        "text, all logits at once": lambda: F.cross_entropy(hidden_NH @ weight_VH.T, labels_N, reduction="sum"),
        "text": in_chunks(Objective()),
        "forward KL, top 50": in_chunks(with_loss(kind="forward_kl")),
        "reverse KL, top 50": in_chunks(with_loss(kind="reverse_kl")),
        "half forward KL, half text": in_chunks(with_loss(kind="forward_kl", alpha=0.5)),
    }


def cpu_s(loss: Callable[[], Tensor]) -> float:
    """CPU seconds of one forward and backward pass."""
    started = time.process_time()
    loss().backward()
    return time.process_time() - started


def main() -> None:
    """The table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    timed = arms()
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(repeats):
        for name, loss in timed.items():
            seconds[name].append(cpu_s(loss))
    best = {name: min(values) for name, values in seconds.items()}
    print(f"{'loss':<28} {'CPU s':>7} {'of text':>8}   {POSITIONS} positions, {VOCABULARY} ids, K = {K}")
    for name, value in best.items():
        print(f"{name:<28} {value:>7.3f} {value / best['text']:>8.2f}")
    print(
        json.dumps(
            {
                "chunked_head_ratio": best["text"] / best["text, all logits at once"],
                "sparse_head_ratio": best["forward KL, top 50"] / best["text"],
                "seconds": best,
                "date": datetime.date.today().isoformat(),
                "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
            }
        )
    )


if __name__ == "__main__":
    main()

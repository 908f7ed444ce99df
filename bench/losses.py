"""What becomes of a student under right and wrong losses, when the teacher is stored as its k likeliest ids.

    python bench/losses.py

The teacher is a Zipf distribution over 200 ids with 0.53 of its mass on the 8 that are stored; the student is 200 free
logits, so whatever it becomes is what the loss asks for. "Wrong" are forms that other tools use or have used: they leave out
the tail, or scale 8 probabilities to one. Draws come 12 to a position, over 4,096 positions with this one distribution.

Expected: every loss of raystill gives the student the teacher's mass on the 8 ids; over the whole vocabulary and with draws
it becomes the teacher; with a tail it differs only inside it, where it knows the sum alone.
"""

import argparse
import datetime
import json
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from raystill import losses, recipe
from raystill.training.objective import Soft, objective

V, K, DRAWS, POSITIONS = 200, 8, 12, 4096
STEPS = 1500


def teacher() -> Tensor:
    """p_V in falling order, float64."""
    p_V = torch.arange(1, V + 1, dtype=torch.float64) ** -1.1
    return p_V / p_V.sum()


def top(p_V: Tensor, k: int) -> Soft:
    """The k likeliest ids and their tail."""
    tail = p_V[k:].sum().log() if k < V else torch.tensor(losses.ABSENT)
    logprobs_1C = torch.cat([p_V[:k].log(), tail[None]])[None].float()
    return Soft(torch.arange(k)[None], logprobs_1C, torch.ones(1), True)


def drawn(p_V: Tensor) -> Soft:
    """12 draws for each position, one class for each draw: equal ids side by side would be one class, so they are merged."""
    generator = torch.Generator().manual_seed(0)
    ids_ND = torch.multinomial(p_V.expand(POSITIONS, -1), DRAWS, replacement=True, generator=generator).sort(1).values
    first_ND = torch.ones_like(ids_ND, dtype=torch.bool)
    first_ND[:, 1:] = ids_ND[:, 1:] != ids_ND[:, :-1]
    share_ND = (ids_ND[:, :, None] == ids_ND[:, None, :]).double().mean(2)
    logprobs_ND = torch.where(first_ND, share_ND.log(), losses.ABSENT)
    absent_N1 = torch.full((POSITIONS, 1), losses.ABSENT)
    return Soft(ids_ND, torch.cat([logprobs_ND, absent_N1], 1).float(), torch.ones(POSITIONS), True)


def ours(kind: str, soft: Soft) -> Callable[[Tensor], Tensor]:
    """A loss of raystill as the trainer computes it."""
    chosen = objective(recipe.Loss(kind=kind), 1.0)
    labels_N = torch.zeros(len(soft.ids_NK), dtype=torch.long)
    return lambda z_V: chosen(z_V.float().expand(len(labels_N), -1), labels_N, soft).mean()


def wrong(p_V: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    """Losses over the k ids that forget the rest."""
    p_K = p_V[:K]
    scaled_K = p_K / p_K.sum()
    return {
        "truncated: sum of p log(p/q) over k": lambda z: (p_K * (p_K.log() - z.log_softmax(0)[:K])).sum(),
        "teacher scaled to one over k": lambda z: (scaled_K * (scaled_K.log() - z.log_softmax(0)[:K])).sum(),
        "both scaled to one over k": lambda z: F.kl_div(z[:K].log_softmax(0), scaled_K, reduction="sum"),
    }


def fitted(loss: Callable[[Tensor], Tensor]) -> Tensor:
    """q_V of the student that minimises a loss, begun from the uniform distribution."""
    z_V = torch.zeros(V, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([z_V], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss(z_V).backward()
        optimizer.step()
        schedule.step()
    return z_V.detach().softmax(0)


def table() -> list[dict[str, float | str]]:
    """One row per loss and support."""
    p_V = teacher()
    arms: dict[tuple[str, str], Callable[[Tensor], Tensor]] = {}
    for kind in losses.KINDS:
        if kind == losses.TEXT:
            continue
        arms[kind, "whole vocabulary"] = ours(kind, top(p_V, V))
        arms[kind, f"{K} ids and tail"] = ours(kind, top(p_V, K))
        if losses.traits(kind).sampled:
            arms[kind, f"{DRAWS} draws"] = ours(kind, drawn(p_V))
    arms |= {(name, "wrong"): loss for name, loss in wrong(p_V).items()}
    rows: list[dict[str, float | str]] = []
    for (name, support), loss in arms.items():
        q_V = fitted(loss)
        kl = float((p_V * (p_V / q_V).log()).sum())
        rows.append({"loss": name, "support": support, "mass": float(q_V[:K].sum()), "first": float(q_V[0]), "kl": kl})
    return rows


def main() -> None:
    """The table as Markdown, then one JSON line."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    p_V = teacher()
    rows = table()
    print(f"| loss | support | student's mass on the {K} ids | p(first id) | KL(teacher, student) |")
    print("|---|---|---|---|---|")
    print(f"| (the teacher) | | {float(p_V[:K].sum()):.3f} | {float(p_V[0]):.3f} | 0.000 |")
    for row in rows:
        print(f"| {row['loss']} | {row['support']} | {row['mass']:.3f} | {row['first']:.3f} | {row['kl']:.3f} |")
    print(json.dumps({"table": rows, "date": datetime.date.today().isoformat()}))


if __name__ == "__main__":
    main()

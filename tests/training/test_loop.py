import math
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from raystill import recipe
from raystill.artifacts import Checkpoint
from raystill.chat import Encoded
from raystill.training import batches, loop, optimizers, zero
from raystill.training.soft import Span


def test_learning_rate_warms_up_then_falls_to_zero() -> None:
    train = recipe.Train(learning_rate=1.0, warmup=0.2)
    rates = [loop.learning_rate(train, step, 10) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[6] == pytest.approx(0.5)
    assert all(a > b for a, b in pairwise(rates[2:]))
    assert loop.learning_rate(train.model_copy(update={"schedule": "constant"}), 9, 10) == 1.0


def test_norms_and_biases_are_not_decayed() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3))
    groups = optimizers.build(module, recipe.Train(weight_decay=0.1)).param_groups
    assert [(g["weight_decay"], [p.dim() for p in g["params"]]) for g in groups] == [(0.1, [2]), (0.0, [1, 1, 1])]


POISON = 5
"""The example whose loss is infinite: it lies in some worker's micro-batch, and the step must be skipped by all."""


def one_worker(rank: int, folder: str, model: str, workers: int) -> None:
    """Two epochs of two steps for each ZeRO stage; one of each epoch's steps meets the poison."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(workers))
    zero.environment(gpu=False)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=workers)
    seen: dict[int, Any] = {}
    for stage in range(4):
        train = recipe.Train(epochs=2, batch_size=8, learning_rate=1e-3)
        compute = recipe.Workers(workers=workers, zero=stage, micro_tokens=24)
        job = loop.Job(train, 1.0, compute, Checkpoint(model, "m"), folder, "attempt", False, 1, None)
        worker = loop.start(job)
        rows = []
        for step in range(4):
            at = batches.batch(16, 2, 8, 0, step)
            before = loop.gathered(worker.engine, keep=True)
            mean, norm, _ = loop.one_step(worker, at, step, 1e-3, stop=False)
            after = loop.gathered(worker.engine, keep=True)
            moved = any(not torch.equal(before[name], after[name]) for name in before)
            whole = all(bool(t.isfinite().all()) for t in after.values())
            rows.append((POISON in at, math.isfinite(mean), norm is not None, moved, whole, mean))
        seen[stage] = rows
    torch.save(seen, f"{folder}/seen-{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_a_step_that_is_not_finite_is_skipped_by_all_workers_in_every_zero_stage(
    tiny_model: Path, tmp_path: Path
) -> None:
    # float32 turns this weight into infinity, in its own micro-batch alone.
    made = [
        (
            "train",
            Encoded([5, 6, 7, 8, 9, 10 + i, 11, 12], [False] * 4 + [True] * 4),
            1e39 if i == POISON else 1.0,
            Span(),
        )
        for i in range(16)
    ]
    batches.store(str(tmp_path / "work" / "attempt"), made)
    mp.spawn(one_worker, (str(tmp_path), str(tiny_model), 2), nprocs=2)
    first, second = (torch.load(tmp_path / f"seen-{rank}.pt") for rank in (0, 1))
    for stage, rows in first.items():
        assert sum(poisoned for poisoned, *_ in rows) == 2
        for poisoned, finite, applied, moved, whole, _ in rows:
            assert (finite, applied, moved, whole) == (not poisoned, not poisoned, not poisoned, True), stage
        clean = [row[-1] for row in rows if not row[0]]
        assert clean == pytest.approx([row[-1] for row in first[0] if not row[0]], rel=1e-5)
        assert [row[:4] for row in second[stage]] == [row[:4] for row in rows]

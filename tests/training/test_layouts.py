"""A teacher teaches the same however the work is laid out: workers, ZeRO stage, micro-batches, packing, chunks."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from conftest import build_tiny_model

from raystill import recipe, targets
from raystill.artifacts import Checkpoint
from raystill.chat import Encoded
from raystill.records import Ids, Targets
from raystill.training import batches, chunks, live, loop, soft, zero

EXAMPLES, STEPS = 16, 3
LOSSES = {
    "top-k": {"kind": "jensen_shannon", "alpha": 0.7},
    "draws": {"kind": "forward_kl"},
    "carried": {"kind": "forward_kl", "alpha": 0.7},
    "live": {"kind": "reverse_kl", "alpha": 0.7, "layers": {"measure": "mse"}},
    "attention": {"attention": {"kind": "maps", "map": "uniform"}, "layers": {"map": "last"}},
}
LIVE = ("live", "attention")
# ZeRO stage, tokens of a micro-batch, packing, bytes of a chunk
LAYOUTS = [
    (0, 4096, True, 64 << 20),
    (1, 4096, True, 64 << 20),
    (1, 16, False, 64 << 20),
    (2, 24, True, 4 * 384 * 3),
    (3, 24, True, 4 * 384),
]


def store(folder: Path, kind: str, vocabulary: int) -> None:
    """Examples of unequal lengths, a third of them without targets for their last token."""
    rng = np.random.default_rng(0)
    # As from another tokenizer, which lacks some of the ids and writes some tokens otherwise.
    numbers = np.where(np.arange(vocabulary) < vocabulary - 60, np.arange(vocabulary), -1)
    with (folder / (live.FILE if kind in LIVE else soft.FILE)).open("wb") as file:
        seen = 0
        writer = soft.Writer(file, "top_k" if kind == "top-k" else "sampled", vocabulary)

        def made() -> Any:
            nonlocal seen
            for i in range(EXAMPLES):
                answer = 2 + i % 5
                encoded = Encoded(rng.integers(5, vocabulary, 4 + answer).tolist(), [False] * 4 + [True] * answer)
                ids = Ids(encoded.input_ids[4 : 4 + answer - (i % 3 == 0)])
                if kind in LIVE:
                    shown = [*rng.integers(5, vocabulary, i % 4).tolist(), *encoded.input_ids[: 4 + len(ids)]]
                    file.write(np.array([len(shown), *shown], "<i4").tobytes())
                    yield "train", encoded, 1.0 + i % 2, soft.Span(seen, 0, len(ids))
                    seen += len(shown) + 1
                    continue
                p = rng.dirichlet(np.full(vocabulary, 0.1), len(ids)) + 1e-9
                p /= p.sum(1, keepdims=True)
                if kind == "top-k":
                    order = np.argsort(-p, axis=1)[:, :8]
                    kept = np.take_along_axis(p, order, 1)
                    packed = targets.pack_topk(order, np.log(kept), 1 - kept.sum(1), vocabulary)
                else:
                    drawn = [np.unique(rng.choice(vocabulary, 6, p=row), return_counts=True) for row in p]
                    offsets = np.cumsum([0, *(len(unique) for unique, _ in drawn)])
                    unique, counts = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
                    packed = targets.pack_sampled(unique, counts, offsets, vocabulary)
                if kind == "carried":
                    rows = soft.renumbered(soft.of_draws(packed), numbers)
                    rows[i % 3 :: 4] = soft.nothing(len(rows[i % 3 :: 4]), rows)
                    yield "train", encoded, 1.0 + i % 2, writer.keep(rows, 0)
                    continue
                yield "train", encoded, 1.0 + i % 2, writer(Targets("", "", 0, "train", ids, packed), encoded)

        batches.store(str(folder), made())
    if kind == "carried":
        (numbers < 0).astype(np.uint8).tofile(folder / soft.BEYOND)


def learn(rank: int, folder: str, model: str, teacher: str, workers: int, layouts: list[Any]) -> None:
    """Losses and gradient norms of some steps in each layout."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(workers))
    zero.environment(gpu=False)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store-{workers}", rank=rank, world_size=workers)
    seen: dict[Any, Any] = {}
    for kind, loss in LOSSES.items():
        for layout in layouts:
            stage, micro_tokens, packing, chunks.CHUNK_BYTES = layout
            if kind == "attention" and not packing:
                continue
            # Without the threshold ZeRO 3 would shard no tensor of so small a model.
            extra = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
            train = recipe.Train.model_validate(
                {"epochs": 3, "batch_size": 8, "packing": packing, "loss": loss, "deepspeed": extra}
            )
            compute = recipe.Workers(workers=workers, zero=stage, micro_tokens=micro_tokens)
            beside = Checkpoint(teacher, "t") if kind in LIVE else None
            job = loop.Job(train, 2.0, compute, Checkpoint(model, "m"), folder, kind, False, 1, None, beside)
            worker = loop.start(job)
            assert worker.engine.module.chunked
            rows = []
            for step in range(STEPS):
                at = batches.batch(EXAMPLES, 3, 8, 0, step)
                mean, norm, _ = loop.one_step(worker, at, step, 1e-3, stop=False)
                rows.append((mean, norm))
            seen[kind, layout] = rows
    if rank == 0:
        torch.save(seen, f"{folder}/seen-{workers}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_loss_and_gradient_are_those_of_one_worker(tiny_model: Path, tmp_path: Path) -> None:
    from raystill import models

    teacher = build_tiny_model(tmp_path / "teacher", hidden=128, layers=3)
    for kind in LOSSES:
        (tmp_path / "work" / kind).mkdir(parents=True)
        store(tmp_path / "work" / kind, kind, models.vocabulary(str(tiny_model)))
    mp.spawn(learn, (str(tmp_path), str(tiny_model), str(teacher), 1, LAYOUTS[:3]), nprocs=1)
    mp.spawn(learn, (str(tmp_path), str(tiny_model), str(teacher), 2, LAYOUTS[1:]), nprocs=2)
    alone, together = (torch.load(tmp_path / f"seen-{workers}.pt") for workers in (1, 2))
    for kind in LOSSES:
        losses = [loss for loss, _ in alone[kind, LAYOUTS[0]]]
        norms = [norm for _, norm in alone[kind, LAYOUTS[0]]]
        assert len(set(losses)) == len(set(norms)) == STEPS
        for seen in (alone, together):
            for (_, layout), rows in ((key, rows) for key, rows in seen.items() if key[0] == kind):
                assert [loss for loss, _ in rows] == pytest.approx(losses, rel=1e-5), (kind, layout)
                assert [norm for _, norm in rows] == pytest.approx(norms, rel=1e-5), (kind, layout)

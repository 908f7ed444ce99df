"""A run goes on from its checkpoint as if it had never stopped: with as many workers, with others, in other ZeRO stages."""

import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from raystill import recipe
from raystill.artifacts import Checkpoint
from raystill.chat import Encoded
from raystill.errors import ResourceError
from raystill.training import batches, checkpoints, layouts, loop, zero
from raystill.training.checkpoints import Layout, Saved
from raystill.training.saving import Saver
from raystill.training.soft import Span

EXAMPLES, SAVED_AFTER, STEPS = 24, 2, 6
# With so much decay, and a rate so high, one step with a wrong moment or decay shows in the losses.
EXTRA = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
TRAIN = recipe.Train(epochs=2, batch_size=8, learning_rate=3e-3, weight_decay=0.3, deepspeed=EXTRA)
RATE = 3e-3


def worker_of(folder: str, model: str, workers: int, stage: int) -> loop.Worker:
    compute = recipe.Workers(workers=workers, zero=stage, micro_tokens=24)
    return loop.start(loop.Job(TRAIN, 1.0, compute, Checkpoint(model, "m"), folder, "attempt", False, 1, None))


def losses(worker: loop.Worker, first: int, last: int) -> list[float]:
    at = [batches.batch(EXAMPLES, 2, 8, 0, step) for step in range(first, last)]
    return [loop.one_step(worker, at[i], first + i, RATE, stop=False)[0] for i in range(last - first)]


def group(rank: int, folder: str, workers: int) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(workers))
    tempfile.tempdir = folder
    zero.environment(gpu=False)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store-{workers}", rank=rank, world_size=workers)


def whole_and_back(rank: int, folder: str, model: str) -> None:
    """Two workers, in each ZeRO stage: an uninterrupted run, and then the same engine again from its checkpoint."""
    group(rank, folder, 2)
    seen: dict[int, Any] = {}
    for stage in range(4):
        worker, url = worker_of(folder, model, 2, stage), f"{folder}/zero-{stage}"
        saver = Saver(url, "attempt", print)
        straight = losses(worker, 0, SAVED_AFTER)
        saver.save(SAVED_AFTER, Layout(2, stage), {}, [], None, partial(layouts.save, worker.engine))
        straight += losses(worker, SAVED_AFTER, STEPS)
        assert saver.wait() is None
        found = checkpoints.latest(url, print)
        assert found is not None
        layouts.load(worker.engine, url, found, Layout(2, stage))
        seen[stage] = straight, losses(worker, SAVED_AFTER, STEPS)
    if rank == 0:
        torch.save(seen, f"{folder}/straight.pt")
    dist.destroy_process_group()


def go_on(rank: int, folder: str, model: str, workers: int, stages: list[tuple[int, int]]) -> None:
    """Other workers, from the checkpoint of one ZeRO stage in another."""
    group(rank, folder, workers)
    seen = {}
    for before, now in stages:
        worker, url = worker_of(folder, model, workers, now), f"{folder}/zero-{before}"
        found = checkpoints.latest(url, print)
        assert found is not None
        layouts.load(worker.engine, url, found, Layout(workers, now))
        seen[before, now] = losses(worker, SAVED_AFTER, STEPS)
    if rank == 0:
        torch.save(seen, f"{folder}/resumed-{workers}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_losses_go_on_with_any_number_of_workers(tiny_model: Path, tmp_path: Path) -> None:
    made = [
        ("train", Encoded([5 + i, *range(6, 11 + i % 5)], [False] * 3 + [True] * (3 + i % 5)), 1.0, Span())
        for i in range(EXAMPLES)
    ]
    batches.store(str(tmp_path / "work" / "attempt"), made)
    folder, model = str(tmp_path), str(tiny_model)
    mp.spawn(whole_and_back, (folder, model), nprocs=2)
    runs = torch.load(tmp_path / "straight.pt")
    expected, _ = runs[0]
    assert len(set(expected)) == STEPS
    for straight, again in runs.values():
        assert straight == pytest.approx(expected, rel=1e-5)
        assert again == straight[SAVED_AFTER:]  # to the last bit
    for workers, stages in ((1, [(0, 0), (1, 1), (2, 2), (3, 3), (2, 1)]), (3, [(0, 0), (1, 2), (3, 3)])):
        mp.spawn(go_on, (folder, model, workers, stages), nprocs=workers)
        for stage, resumed in torch.load(tmp_path / f"resumed-{workers}.pt").items():
            assert resumed == pytest.approx(expected[SAVED_AFTER:], rel=1e-5), (workers, stage)
    assert not list(tmp_path.glob("raystill-checkpoints/*"))


def another_optimizer(rank: int, folder: str) -> None:
    """One worker, with an optimizer that keeps something else than AdamW does; saved as if by two."""
    import deepspeed

    group(rank, folder, 1)
    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=zero.settings(1, 1.0, 1, 20, False, {}))
    engine.backward(engine(torch.ones(1, 4)).sum())
    engine.step()
    saver = Saver(folder, "attempt", print)
    saver.save(1, Layout(2, 1), {}, [], None, partial(layouts.save, engine))
    saver.wait()
    found = checkpoints.latest(folder, print)
    assert found is not None
    with pytest.raises(
        ResourceError, match=r"exp_avg.*compute\.train\.workers: 2 and compute\.train\.zero: 1 to resume"
    ):
        layouts.load(engine, folder, found, Layout(1, 1))
    dist.destroy_process_group()


@pytest.mark.slow
def test_another_optimizers_state_is_refused_with_what_to_set(tmp_path: Path) -> None:
    mp.spawn(another_optimizer, (str(tmp_path),), nprocs=1)


@pytest.mark.parametrize(("before", "now"), [(0, 1), (1, 0), (3, 2), (1, 3)])
def test_stages_that_keep_their_state_in_other_ways_are_refused_with_what_to_set(before: int, now: int) -> None:
    saved = Saved("step-00000004.a.b", 4, Layout(2, before), {}, [], [])
    with pytest.raises(ResourceError, match=rf"compute\.train\.zero: {before} to resume"):
        layouts.check("url", saved, Layout(2, now))

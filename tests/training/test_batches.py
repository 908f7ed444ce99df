from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raystill.chat import Encoded
from raystill.training import batches
from raystill.training.soft import Span

CPU = torch.device("cpu")


def corpus(folder: Path) -> dict[str, batches.Corpus]:
    made = [
        ("train", Encoded([5, 6, 7, 8], [False, False, True, True]), 1.0, Span()),
        ("validation", Encoded([9, 9], [False, True]), 1.0, Span()),
        ("train", Encoded([1, 2, 3], [False, True, True]), 0.5, Span()),
    ]
    batches.store(str(folder), made)
    return batches.fetch(str(folder))


def test_stored_corpora_come_back_by_split(tmp_path: Path) -> None:
    read = corpus(tmp_path)
    assert {name: len(c) for name, c in read.items()} == {"train": 2, "validation": 1}
    train = read["train"]
    assert train.lengths.tolist() == [3, 2]
    assert train.ids[train.starts[1] : train.ends[1]].tolist() == [1, 2, 3]
    assert batches.supervised(train, [0, 1]) == 2 + 0.5 * 2


@given(n=st.integers(1, 40), size=st.integers(1, 17), epochs=st.floats(0.1, 3.5), seed=st.integers(0, 3))
def test_steps_walk_every_epoch_once_and_resume_neither_replays_nor_skips(
    n: int, size: int, epochs: float, seed: int
) -> None:
    total = batches.steps(n, epochs, size)
    stream = [i for step in range(total) for i in batches.batch(n, epochs, size, seed, step)]
    assert len(stream) == max(1, round(n * epochs))
    for first in range(0, len(stream) - n + 1, n):
        assert sorted(stream[first : first + n]) == list(range(n))
    for step in range(total):
        at = batches.position(n, size, step)
        assert at.epoch * n + at.position == step * size


def test_order_depends_on_seed_and_epoch() -> None:
    first, second = (batches.batch(64, 2, 64, 0, step).tolist() for step in (0, 1))
    assert first != second
    assert first != batches.batch(64, 2, 64, 1, 0).tolist()
    assert first == batches.batch(64, 2, 64, 0, 0).tolist()


@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=40),
    workers=st.integers(1, 4),
    micro_tokens=st.integers(8, 512),
    packing=st.booleans(),
)
def test_deal_gives_every_example_once_in_equally_many_micro_batches(
    lengths: list[int], workers: int, micro_tokens: int, packing: bool
) -> None:
    shares = batches.deal(lengths, workers, micro_tokens, packing)
    assert len(shares) == workers
    assert len({len(share) for share in shares}) == 1
    assert sorted(i for share in shares for micro in share for i in micro) == list(range(len(lengths)))
    for micro in (m for share in shares for m in share if m):
        cost = sum(lengths[i] for i in micro) if packing else len(micro) * max(lengths[i] for i in micro)
        assert cost <= max(micro_tokens, max(lengths))
        assert lengths[micro[0]] == max(lengths[i] for i in micro)


def test_deal_levels_the_workers() -> None:
    lengths = [int(n) for n in np.random.default_rng(0).integers(20, 100, 64)]
    sums = [sum(lengths[i] for micro in share for i in micro) for share in batches.deal(lengths, 2, 4096, True)]
    assert max(sums) < 1.02 * min(sums)


def padded(shares: list[list[list[int]]], lengths: list[int]) -> int:
    """Tokens that go through the model with their padding."""
    return sum(len(m) * max(lengths[i] for i in m) for share in shares for m in share if m)


def test_without_packing_examples_of_a_length_share_a_micro_batch() -> None:
    lengths = [int(n) for n in np.random.default_rng(0).lognormal(4.5, 0.8, 128).clip(8, 1024)]
    shares = batches.deal(lengths, 2, 2048, False)
    as_they_come = [[list(range(i, i + 8)) for i in range(0, 128, 8)]]
    real = sum(lengths)
    assert padded(as_they_come, lengths) > 2 * real
    assert padded(shares, lengths) < 1.15 * real
    assert max(len(m) for m in shares[0]) > 8
    costs = [padded([share], lengths) for share in shares]
    assert max(costs) < 1.15 * min(costs)


def test_a_packed_row_asks_only_for_supervised_positions(tmp_path: Path) -> None:
    micro = batches.micro(corpus(tmp_path)["train"], [0, 1], True, CPU)
    assert micro.inputs["input_ids"].tolist() == [[5, 6, 7, 1, 2]]
    assert micro.inputs["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    assert list(zip(micro.rows_N.tolist(), micro.columns_N.tolist(), strict=True)) == [(0, 1), (0, 2), (0, 3), (0, 4)]
    assert micro.labels_N.tolist() == [7, 8, 2, 3]
    assert micro.weights_N.tolist() == [1.0, 1.0, 0.5, 0.5]
    assert micro.tokens == 5


def test_a_padded_batch_asks_only_for_supervised_positions(tmp_path: Path) -> None:
    micro = batches.micro(corpus(tmp_path)["train"], [0, 1], False, CPU)
    assert micro.inputs["input_ids"].tolist() == [[5, 6, 7], [1, 2, 0]]
    assert list(zip(micro.rows_N.tolist(), micro.columns_N.tolist(), strict=True)) == [(0, 1), (0, 2), (1, 0), (1, 1)]
    assert micro.labels_N.tolist() == [7, 8, 2, 3]


@pytest.mark.parametrize("packing", [True, False])
def test_an_empty_micro_batch_is_one_token_without_labels(tmp_path: Path, packing: bool) -> None:
    micro = batches.micro(corpus(tmp_path)["train"], [], packing, CPU)
    assert micro.inputs["input_ids"].shape == (1, 1)
    assert (len(micro.labels_N), micro.tokens) == (0, 0)

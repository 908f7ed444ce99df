"""Soft targets come back within the errors their module states, in the bytes it promises, or not at all."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raystill import artifacts
from raystill.errors import Corrupted
from raystill.records import Ids, Targets
from raystill.targets import STEP, Sampled, TopK, pack_sampled, pack_topk, unpack_sampled, unpack_topk

SMALL, WIDE = 49_152, 151_936
LOG_HALF = float(np.log(0.5))
LOGPROB_ERROR, MASS_ERROR, SUM_ERROR, DIVERGENCE = STEP + 0.001, 0.0008, 3e-6, STEP**2 / 8 + 1e-6


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def zipf(tokens: int, vocabulary: int, temperature: float, seed: int = 0) -> np.ndarray:
    """Synthetic: rank-frequency slope 1 over the ids, as tokenizers number them, and noise that depends on context."""
    rng = np.random.default_rng(seed)
    noise = 2.5 * rng.standard_normal(2 * vocabulary)  # each token sees another stretch of it: new noise takes minutes
    starts = rng.integers(0, vocabulary, (tokens, 1))
    noise_TV = noise[starts + np.arange(vocabulary)]
    return log_softmax((noise_TV - np.log(np.arange(vocabulary) + 10.0)) / temperature)


def top(logprobs_TV: np.ndarray, k: int) -> TopK:
    """Exact float64 top-k; the tail is summed over the others, so it has all its digits."""
    ids = np.argpartition(-logprobs_TV, k - 1, axis=1)
    kept = np.take_along_axis(logprobs_TV, ids[:, :k], axis=1)
    order = np.argsort(-kept, axis=1, kind="stable")
    tail = np.exp(np.take_along_axis(logprobs_TV, ids[:, k:], axis=1)).sum(axis=1)
    return TopK(np.take_along_axis(ids, order, axis=1), np.take_along_axis(kept, order, axis=1), tail)


def divergence(exact: TopK, restored: TopK) -> np.ndarray:
    """KL over K ids and tail, in nats per token."""
    tail = np.where(exact.tail_T > 0, exact.tail_T, 1)
    tails = tail * np.log(tail / np.where(exact.tail_T > 0, restored.tail_T, 1))
    p = np.exp(exact.logprobs_TK)
    return (p * (exact.logprobs_TK - restored.logprobs_TK)).sum(axis=1) + np.where(exact.tail_T > 0, tails, 0)


def assert_within_stated_errors(exact: TopK, vocabulary: int) -> TopK:
    restored = unpack_topk(pack_topk(*exact, vocabulary))
    assert [a.dtype for a in restored] == [np.int32, np.float32, np.float32]
    np.testing.assert_array_equal(restored.ids_TK, exact.ids_TK)
    np.testing.assert_allclose(restored.logprobs_TK, exact.logprobs_TK, rtol=0, atol=LOGPROB_ERROR)
    np.testing.assert_allclose(restored.tail_T, exact.tail_T, rtol=MASS_ERROR, atol=5e-18)
    kept = np.exp(restored.logprobs_TK.astype(float)).sum(axis=1)
    np.testing.assert_allclose(kept, np.exp(exact.logprobs_TK).sum(axis=1), rtol=MASS_ERROR + SUM_ERROR)
    np.testing.assert_allclose(kept + restored.tail_T, 1, rtol=0, atol=SUM_ERROR)
    assert (np.diff(restored.logprobs_TK, axis=1) <= 0).all()
    assert (divergence(exact, restored) <= DIVERGENCE).all()
    return restored


def sample(logprobs_TV: np.ndarray, draws: int, seed: int = 0) -> Sampled:
    rng = np.random.default_rng(seed)
    cumulated = np.cumsum(np.exp(logprobs_TV), axis=1)
    drawn = [np.searchsorted(c, rng.random(draws) * c[-1], side="right") for c in cumulated]
    rows = [np.unique(ids, return_counts=True) for ids in drawn]
    if not rows:
        return Sampled(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(1, np.int64))
    ids, counts = (np.concatenate(part).astype(np.int32) for part in zip(*rows, strict=True))
    return Sampled(ids, counts, np.cumsum([0, *(len(row[0]) for row in rows)]))


def unit_bytes(value: bytes, tokens: int) -> int:
    """A Parquet part of 256 such completions, all columns. Random bytes stand for packed ones: neither compresses."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, WIDE, (256, tokens)).tolist()
    return len(
        artifacts.encode(
            Targets,
            [Targets(f"{rng.integers(1 << 60):016x}", "t", 0, "train", Ids(i), rng.bytes(len(value))) for i in ids],
        )
    )


@given(
    tokens=st.integers(0, 6),
    k=st.integers(1, 40),
    others=st.integers(0, 400),
    sharpness=st.sampled_from([0.0, 0.01, 1.0, 3.0, 10.0, 100.0, 900.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_distribution_comes_back_within_the_stated_errors(
    tokens: int, k: int, others: int, sharpness: float, seed: int
) -> None:
    logits = sharpness * np.random.default_rng(seed).standard_normal((tokens, k + others))
    assert_within_stated_errors(top(log_softmax(logits), k), k + others)


@pytest.mark.parametrize("vocabulary", [SMALL, WIDE])
@pytest.mark.parametrize("temperature", [0.05, 0.5, 1.0, 2.0, 100.0])
def test_peaked_and_flat_distributions_over_a_real_vocabulary(vocabulary: int, temperature: float) -> None:
    exact = top(zipf(4, vocabulary, temperature), 50)
    restored = assert_within_stated_errors(exact, vocabulary)
    assert divergence(exact, restored).mean() < 1e-4


def test_float32_from_an_engine_is_accepted() -> None:
    ids, logprobs, _ = top(zipf(20, SMALL, 1.0), 50)
    given32 = logprobs.astype(np.float32)
    assert_within_stated_errors(TopK(ids, given32.astype(float), 1 - np.exp(given32.astype(float)).sum(axis=1)), SMALL)


def test_the_edges() -> None:
    empty = unpack_topk(pack_topk(np.zeros((0, 50), int), np.zeros((0, 50)), np.zeros(0), SMALL))
    assert empty.ids_TK.shape == empty.logprobs_TK.shape == (0, 50) and empty.tail_T.shape == (0,)
    sure = unpack_topk(pack_topk([[7]], [[0.0]], [0.0], SMALL))
    assert (sure.ids_TK, sure.logprobs_TK, sure.tail_T) == ([[7]], [[0]], [0])
    whole = assert_within_stated_errors(top(zipf(2, 5000, 1.0), 5000), 5000)
    assert (whole.tail_T == 0).all()
    assert_within_stated_errors(top(np.full((2, WIDE), -np.log(WIDE)), 50), WIDE)
    assert unpack_topk(pack_topk([[0]], [[0.0]], [0.0], 1)).ids_TK == [[0]]


def test_a_tail_that_rounding_left_below_nothing_is_nothing() -> None:
    """One less the sum of float32 probabilities is at times -1e-7."""
    assert unpack_topk(pack_topk([[1, 2]], [[LOG_HALF, LOG_HALF]], [-1e-7], 100)).tail_T == [0]


def test_ties_stay_ties() -> None:
    logprobs = np.log([[0.3, 0.2, 0.2, 0.2]])
    restored = unpack_topk(pack_topk([[9, 1, 5, 3]], logprobs, [0.1], 100))
    assert len(set(restored.logprobs_TK[0, 1:])) == 1
    assert restored.ids_TK.tolist() == [[9, 1, 5, 3]]


@pytest.mark.parametrize(
    ("ids", "logprobs", "tail", "says"),
    [
        ([[1, 2]], [[LOG_HALF, np.nan]], [0.5], "NaN"),
        ([[1, 2]], [[LOG_HALF, -np.inf]], [0.5], "infinity"),
        ([[1, 2]], [[np.inf, LOG_HALF]], [0.5], "infinity"),
        ([[1, 2]], [[LOG_HALF, LOG_HALF]], [np.nan], "NaN"),
        ([[1, 2]], [[LOG_HALF, -1e9]], [0.5], "masked"),
        ([[1, 2]], [[0.5, LOG_HALF]], [0.0], "between"),
        ([[1, 2]], [[np.log(0.2), np.log(0.7)]], [0.1], "fall with rank"),
        ([[1, 2]], [[np.log(0.7), np.log(0.2)]], [0.0], "sum to one"),
        ([[1, 2]], [[np.log(0.7), np.log(0.3)]], [-0.01], "sum to one"),
        ([[1, 2]], [[-9.0, -10.0]], [1 - np.exp(-9) - np.exp(-10)], "most probable"),
        ([[1, 1]], [[LOG_HALF, LOG_HALF]], [0.0], "twice"),
        ([[1, 100]], [[LOG_HALF, LOG_HALF]], [0.0], "from 0 to 99"),
        ([[-1, 1]], [[LOG_HALF, LOG_HALF]], [0.0], "from 0 to 99"),
        ([[1.0, 2.0]], [[LOG_HALF, LOG_HALF]], [0.0], "integers"),
        ([[1, 2]], [[LOG_HALF, LOG_HALF]], [0.0, 0.0], "shapes"),
    ],
)
def test_what_is_no_top_of_a_distribution_is_refused(ids: list, logprobs: list, tail: list, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        pack_topk(ids, logprobs, tail, 100)


@given(
    tokens=st.integers(0, 8),
    draws=st.integers(1, 70),
    vocabulary=st.sampled_from([1, 2, 256, 257, SMALL, 65_536, 65_537, WIDE]),
    sharpness=st.sampled_from([0.0, 1.0, 30.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_samples_come_back_exactly(tokens: int, draws: int, vocabulary: int, sharpness: float, seed: int) -> None:
    logits = sharpness * np.random.default_rng(seed).standard_normal((tokens, min(vocabulary, 300)))
    exact = sample(log_softmax(logits), draws, seed)
    exact = exact._replace(ids_N=exact.ids_N + vocabulary - min(vocabulary, 300))
    for given_, back in zip(exact, unpack_sampled(pack_sampled(*exact, vocabulary)), strict=True):
        np.testing.assert_array_equal(given_, back)


@pytest.mark.parametrize(
    ("counts", "offsets", "says"),
    [
        ([1, 1, 2], [0, 2, 3], None),
        ([1, 1, 3], [0, 2, 3], "same number of draws"),
        ([2, 0, 2], [0, 2, 3], "positive"),
        ([1, 1, 2], [0, 3, 3], "offsets"),
        ([1, 1, 2], [0, 2, 2], "offsets"),
        ([1, 1, 2], [1, 2, 3], "offsets"),
    ],
)
def test_counts_that_are_no_draws_are_refused(counts: list[int], offsets: list[int], says: str | None) -> None:
    if says is None:
        pack_sampled([4, 5, 4], counts, offsets, 10)
    else:
        with pytest.raises(ValueError, match=says):
            pack_sampled([4, 5, 4], counts, offsets, 10)


def test_every_flipped_bit_and_every_cut_is_found() -> None:
    exact = top(zipf(3, 1000, 1.0), 8)
    for value, unpack in (
        (pack_topk(*exact, 1000), unpack_topk),
        (pack_sampled(*sample(zipf(3, 1000, 1.0), 12), 1000), unpack_sampled),
    ):
        for bit in range(8 * len(value)):
            flipped = bytearray(value)
            flipped[bit // 8] ^= 1 << bit % 8
            with pytest.raises(Corrupted):
                unpack(bytes(flipped))
        for size in range(len(value)):
            with pytest.raises(Corrupted):
                unpack(value[:size])


def test_one_kind_is_not_read_as_the_other() -> None:
    with pytest.raises(ValueError, match="manifest"):
        unpack_sampled(pack_topk([[7]], [[0.0]], [0.0], SMALL))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("vocabulary", [SMALL, WIDE])
def test_bytes_per_token_of_a_unit_with_everything_counted(vocabulary: int, temperature: float) -> None:
    logprobs = zipf(100, vocabulary, temperature)
    assert unit_bytes(pack_topk(*top(logprobs, 50), vocabulary), 100) < 112 * 25_600
    assert unit_bytes(pack_sampled(*sample(logprobs, 12), vocabulary), 100) < 32 * 25_600


def test_rows_keep_their_bytes_through_parquet() -> None:
    value = pack_topk(*top(zipf(3, 1000, 1.0), 8), 1000)
    row = Targets("row-1", "teacher", 0, "train", Ids([1, 2, 3]), value)
    assert artifacts.decode(Targets, artifacts.encode(Targets, [row]), "part") == [row]


def test_a_hundred_thousand_tokens_a_second_and_core() -> None:
    """Between 0.5 and 0.6 million were packed and over a million unpacked on two busy cores."""
    exact = TopK(*(np.concatenate([part] * 20) for part in top(zipf(100, SMALL, 1.0), 50)))
    started = time.process_time()
    value = pack_topk(*exact, SMALL)
    packed = time.process_time()
    unpack_topk(value)
    assert packed - started < 0.02 and time.process_time() - packed < 0.02

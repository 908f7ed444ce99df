from pathlib import Path

import numpy as np
import pytest
import torch

from raystill import targets
from raystill.artifacts import Manifest, Table
from raystill.chat import Encoded
from raystill.errors import DataError, ModelError
from raystill.losses import ABSENT, LEAST_TAIL
from raystill.records import Ids, Targets
from raystill.training import batches, soft
from raystill.training.soft import Span

CPU = torch.device("cpu")


def packed(tokens: int, vocabulary: int = 30, k: int = 4, seed: int = 0) -> tuple[bytes, np.ndarray]:
    """Packed top-k targets, and the whole distribution [T, V] that they are of."""
    p = np.random.default_rng(seed).dirichlet(np.ones(vocabulary), tokens)
    ids = np.argsort(-p, axis=1)[:, :k]
    kept = np.take_along_axis(p, ids, 1)
    return targets.pack_topk(ids, np.log(kept), 1 - kept.sum(1), vocabulary), p


def row(ids: list[int], data: bytes) -> Targets:
    return Targets("a", "teacher", 0, "train", Ids(ids), data)


def test_records_hold_what_was_packed() -> None:
    data, p = packed(5)
    rows = soft.of_top_k(data)
    np.testing.assert_allclose(np.exp(rows["logprobs"].astype(np.float64)).sum(1), 1, atol=1e-5)
    kept = np.take_along_axis(p, rows["ids"].astype(np.int64), 1)
    np.testing.assert_allclose(rows["logprobs"][:, :-1], np.log(kept), atol=targets.STEP + 0.001)


def test_more_than_k_join_the_tail() -> None:
    data, _ = packed(5, k=6)
    whole, cut = soft.of_top_k(data), soft.of_top_k(data, 2)
    assert (cut["ids"] == whole["ids"][:, :2]).all()
    np.testing.assert_array_equal(cut["logprobs"][:, :2], whole["logprobs"][:, :2])
    dropped = np.exp(whole["logprobs"][:, 2:].astype(np.float64)).sum(1)
    np.testing.assert_allclose(np.exp(cut["logprobs"][:, -1]), dropped, rtol=1e-5)
    np.testing.assert_array_equal(soft.of_top_k(data, 9), whole)


def test_draws_become_shares_and_what_is_left_is_absent() -> None:
    data = targets.pack_sampled([7, 9, 3], [3, 1, 4], [0, 2, 3], 30)
    rows = soft.of_draws(data)
    np.testing.assert_allclose(np.exp(rows["logprobs"]), [[0.75, 0.25, 0, 0, 0], [1, 0, 0, 0, 0]], rtol=1e-6)
    assert rows["ids"].tolist() == [[7, 9, 7, 7], [3, 3, 3, 3]]
    assert (rows["logprobs"][1, 1:] == np.float32(ABSENT)).all()


def test_an_empty_tail_is_read_as_less_than_float32_can_tell() -> None:
    data = targets.pack_topk([[1, 2]], [[np.log(0.75), np.log(0.25)]], [0.0], 30)
    assert np.exp(soft.of_top_k(data)["logprobs"][0, -1]) == pytest.approx(LEAST_TAIL)


def test_raised_tails_are_counted(tmp_path: Path) -> None:
    data = targets.pack_topk([[1, 2], [3, 4]], np.log([[0.75, 0.25], [0.5, 0.25]]), [0.0, 0.25], 30)
    with (tmp_path / soft.FILE).open("wb") as file:
        writer = soft.Writer(file, "top_k", 30)
        writer(row([7, 8], data), Encoded([5, 7, 8], [False, True, True]))
    assert (writer.rows, writer.raised_tails) == (2, 1)


def test_ids_that_the_student_lacks_join_the_others() -> None:
    rows = soft.of_top_k(targets.pack_topk([[29, 3, 28]], np.log([[0.5, 0.2, 0.1]]), [0.2], 30))
    inside = soft.within(rows, 28)
    assert inside["ids"].tolist() == [[3, 3, 3]]
    np.testing.assert_allclose(np.exp(inside["logprobs"]), [[0, 0.2, 0, 0.8]], rtol=0.06, atol=1e-6)
    with pytest.raises(ModelError, match="ids of 3 and above"):
        soft.within(rows, 3)


@pytest.mark.parametrize(
    ("mask", "ids", "completion", "wanted"),
    [
        ([0, 0, 1, 1, 1], [1, 2, 7, 8, 9], [7, 8, 9], (0, 3)),
        ([0, 0, 1, 1, 1], [1, 2, 7, 8, 0], [7, 8], (0, 2)),  # the student adds a stop token
        ([0, 0, 1, 1, 1], [1, 2, 7, 8, 9], [7, 5, 9], (0, 1)),  # behind another token the context is another
        ([0, 1, 0, 1, 1], [1, 2, 3, 8, 9], [8, 9], (1, 2)),  # an earlier turn carries loss too
        ([0, 0, 1], [1, 2, 7], [4, 7], (0, 0)),
        ([0, 0, 1], [1, 2, 7], [], (0, 0)),
    ],
)
def test_targets_are_aligned_with_the_last_answer(
    mask: list[int], ids: list[int], completion: list[int], wanted: tuple[int, int]
) -> None:
    assert soft.aligned(Encoded(ids, [bool(m) for m in mask]), completion) == wanted


@pytest.mark.parametrize("packing", [True, False])
def test_each_supervised_position_gets_the_targets_of_its_token(tmp_path: Path, packing: bool) -> None:
    encoded = [
        Encoded([5, 6, 7, 8, 0], [False, False, True, True, True]),
        Encoded([1, 2, 3, 4], [False, True, False, True]),
        Encoded([9, 9, 9], [False, True, True]),
    ]
    scored = [row([7, 8], packed(2, seed=1)[0]), row([4], packed(1, seed=2)[0]), None]
    with (tmp_path / soft.FILE).open("wb") as file:
        writer = soft.Writer(file, "top_k", 30)
        spans = [writer(found, e) for found, e in zip(scored, encoded, strict=True)]
    assert spans == [Span(0, 0, 2), Span(2, 1, 1), Span()]
    batches.store(str(tmp_path), (("train", e, 1.0, s) for e, s in zip(encoded, spans, strict=True)))
    corpus = batches.fetch(str(tmp_path))["train"]
    micro = batches.micro(corpus, [0, 1, 2], packing, CPU)
    assert micro.labels_N.tolist() == [7, 8, 0, 2, 4, 9, 9]
    assert micro.soft is not None and not micro.soft.everywhere
    assert micro.soft.given_N.tolist() == [1, 1, 0, 0, 1, 0, 0]
    first, second = soft.of_top_k(scored[0].packed), soft.of_top_k(scored[1].packed)  # type: ignore[union-attr]
    wanted = np.concatenate([first["logprobs"], second["logprobs"]])
    torch.testing.assert_close(micro.soft.teacher_NC[[0, 1, 4]], torch.as_tensor(wanted))
    alone = batches.micro(corpus, [1], packing, CPU).soft
    assert alone is not None
    torch.testing.assert_close(alone.teacher_NC[1], torch.as_tensor(second["logprobs"][0]))
    nothing = batches.micro(corpus, [], packing, CPU)
    assert nothing.soft is not None and len(nothing.soft.given_N) == len(nothing.labels_N) == 0


def test_a_student_learns_of_its_own_text_only_what_the_teacher_scored(tmp_path: Path) -> None:
    # An answer 7 8 that was cut off: the stop token 2, which encoding adds, is nobody's.
    encoded, span = Encoded([5, 6, 7, 8, 2], [False, False, True, True, True]), Span(40, 0, 2)
    kept, moved = soft.alone(encoded, span)
    assert kept.loss_mask == [False, False, True, True, False]
    assert (kept.input_ids, moved) == (encoded.input_ids, Span(40, 0, 2))
    earlier = Encoded([5, 6, 7, 8, 2], [False, True, True, True, True])
    kept, moved = soft.alone(earlier, Span(40, 1, 2))
    assert kept.loss_mask == [False, False, True, True, False]
    assert moved == Span(40, 0, 2)
    assert not any(soft.alone(encoded, Span())[0].loss_mask)


def test_targets_of_other_examples_are_refused() -> None:
    examples = Table("examples", "e1")

    def scored(of: str) -> Table:
        return Table("t", "t", Manifest("targets", 1, "score", 1, "t", {}, {"examples": of}, []))

    soft.check(scored("e1"), examples)
    with pytest.raises(DataError, match="other examples"):
        soft.check(scored("e0"), examples)

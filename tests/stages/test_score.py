"""score: soft targets of real models over real Ray Data, the same from both engines, resumed and reused."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import build_tiny_model

from raystill import artifacts, chat, session, targets
from raystill.artifacts import Checkpoint, Manifest, Table
from raystill.context import Context
from raystill.errors import StageError
from raystill.recipe import Compute, Score, Teacher
from raystill.records import Example, Ids, Message, Targets
from raystill.stages import score
from raystill.teachers import scorer
from raystill.view import Lines

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with session.ray_session(Compute()) as ensure:
        ensure()
        yield


def examples(root: Path, model: Path, long: int = 0, words: int = 400) -> Table:
    """Two parts; the first rows carry ids of the teacher's own, the others are another's text."""
    mark = chat.tokenizer_fingerprint(str(model))
    parts = []
    for part in range(2):
        rows = []
        for i in range(6):
            text = "on its way " * (words if i < long else 1 + i)
            messages = [Message("user", f"Where is order {part}{i}?"), Message("assistant", text)]
            ids = Ids([7, 8, 9, 0]) if i < 3 and not long else Ids([])
            rows.append(Example(f"{part}-{i}", "big" if i < 3 else "other", 0, "train", messages, None, [1], ids))
        parts.append(artifacts.write_part(str(root / "e"), "train", Example, rows))
    facts = {"tokenizers": {"big": mark, "other": "?"}}
    manifest = Manifest("examples", 1, "curate", 1, "e", {}, {}, parts, facts=facts)
    return artifacts.commit(Table, str(root / "e"), manifest)


def scored(
    root: Path, model: Path, config: Score, table: Table, max_error_rate: float = 0.0, second: Path | None = None,
    **engine: int,
) -> tuple[Any, list[Targets]]:  # fmt: skip
    context = Context(str(root / "score" / "s"), Compute(), Lines(io.StringIO()), max_error_rate, root)
    teacher = Teacher(kind="reference", system="Be brief.", engine=engine)
    further = [(teacher, Checkpoint(str(second), "second"))] if second else []
    outcome = score.score(config, teacher, Checkpoint(str(model), "m"), table, context, further)
    manifest = Manifest("t", 1, "score", 1, "s", {}, {}, list(outcome.files))
    made = artifacts.commit(Table, context.url, manifest)
    return outcome, sorted(made.rows(Targets), key=lambda t: t.id)


def test_both_engines_say_the_same_and_own_ids_are_kept(tiny_model: Path, tmp_path: Path) -> None:
    table = examples(tmp_path, tiny_model)
    outcome, plain = scored(tmp_path / "a", tiny_model, Score(k=20), table)
    unseen, fast = scored(tmp_path / "b", tiny_model, Score(kind="vllm", k=20), table)
    assert [t.id for t in plain] == [f"{p}-{i}" for p in range(2) for i in range(6)]
    assert [list(t.completion_ids) for t in plain[:3]] == [[7, 8, 9, 0]] * 3
    for ours, theirs in zip(plain, fast, strict=True):
        assert list(ours.completion_ids) == list(theirs.completion_ids)
        a, b = targets.unpack_topk(ours.packed), targets.unpack_topk(theirs.packed)
        np.testing.assert_allclose(a.logprobs_TK, b.logprobs_TK, atol=2 * targets.STEP)
        np.testing.assert_allclose(a.tail_T, b.tail_T, rtol=5e-3)
    assert outcome.counts["tokens"] == sum(len(t.completion_ids) for t in plain)
    probed, known = outcome.counts["fidelity"], unseen.counts["fidelity"]
    assert probed["rows"] == known["rows"] == 2 * scorer.PROBE_ROWS
    assert 0 < probed["mass_kept"] < 1
    assert known["mass_kept"] == pytest.approx(probed["mass_kept"], rel=1e-3)
    assert 0 < probed["divergence"] < 1 and known["divergence"] is None
    assert outcome.facts["support"] == "top_k"


def test_a_long_answer_in_small_steps_is_the_same(tiny_model: Path, tmp_path: Path) -> None:
    table = examples(tmp_path, tiny_model, long=2, words=60)
    _, whole = scored(tmp_path / "a", tiny_model, Score(k=5), table)
    _, steps = scored(tmp_path / "b", tiny_model, Score(kind="vllm", k=5), table, max_num_batched_tokens=64)
    assert max(len(t.completion_ids) for t in whole) > 4 * 64
    for ours, theirs in zip(whole, steps, strict=True):
        assert list(ours.completion_ids) == list(theirs.completion_ids)
        a, b = targets.unpack_topk(ours.packed), targets.unpack_topk(theirs.packed)
        np.testing.assert_allclose(a.logprobs_TK, b.logprobs_TK, atol=2 * targets.STEP)


def test_a_mixture_lies_between_its_teachers(tiny_model: Path, tmp_path: Path) -> None:
    other, table = build_tiny_model(tmp_path / "other", hidden=128), examples(tmp_path, tiny_model)
    everything = {"k": 384}
    _, first = scored(tmp_path / "a", tiny_model, Score.model_validate(everything), table)
    _, second = scored(tmp_path / "b", other, Score.model_validate(everything), table)
    both = Score.model_validate({**everything, "mixture": {"x": 3, "y": 1}})
    outcome, mixed = scored(tmp_path / "c", tiny_model, both, table, second=other)
    assert outcome.facts["mixture"] == [0.75, 0.25]
    for a, b, found in zip(first, second, mixed, strict=True):
        assert list(a.completion_ids) == list(b.completion_ids) == list(found.completion_ids)
        p, q, m = (whole(targets.unpack_topk(t.packed)) for t in (a, b, found))
        np.testing.assert_allclose(m, 0.75 * p + 0.25 * q, rtol=0.11)  # each is stored to 0.051 nats


def whole(kept: targets.TopK) -> np.ndarray:
    """Probabilities in the order of ids, [T, V]."""
    return np.take_along_axis(np.exp(kept.logprobs_TK), np.argsort(kept.ids_TK, 1), 1)


def test_draws_resume_and_take_over(tiny_model: Path, tmp_path: Path) -> None:
    table = examples(tmp_path, tiny_model)
    config = Score(support="sampled", draws=12, temperature=1.5)
    first, rows = scored(tmp_path, tiny_model, config, table)
    assert 0 < first.counts["fidelity"]["mass_kept"] < 0.2 and first.counts["fidelity"]["divergence"] > 1
    for row in rows:
        drawn = targets.unpack_sampled(row.packed)
        per_token = np.add.reduceat(drawn.counts_N, drawn.offsets_T1[:-1])
        assert set(per_token) == {12}
    gone = tmp_path / "score" / "s" / first.files[0].path
    gone.unlink()
    (tmp_path / "score" / "s" / "manifest.json").unlink()
    again, same = scored(tmp_path, tiny_model, config, table)
    assert [f.sha256 for f in again.files] == [f.sha256 for f in first.files]
    assert same == rows


def test_rows_longer_than_the_context_are_counted_and_too_many_stop_it(tiny_model: Path, tmp_path: Path) -> None:
    table = examples(tmp_path, tiny_model, long=1)
    outcome, rows = scored(tmp_path / "a", tiny_model, Score(k=5), table, max_error_rate=0.5)
    assert outcome.counts["errors"] == {"longer than the teacher's context": 2}
    assert len(rows) == 10
    with pytest.raises(StageError, match="could not score 2 of 12 answers"):
        scored(tmp_path / "b", tiny_model, Score(k=5), table)


def test_the_share_that_the_scoring_teacher_wrote(tmp_path: Path) -> None:
    teacher, model = Teacher(model="t", system="Be brief."), Checkpoint("t", "t-print")

    def generations(weights: str, by: Teacher) -> Table:
        made = Manifest("generations", 2, "generate", 2, "g", {"teacher": by.identity()}, {"teacher": weights}, [])
        return Table("g", "g", made)

    said = [Message("user", "?"), Message("assistant", "!")]
    rows = [Example(f"r{i}", who, 0, "train", said, None, [1], Ids([])) for i, who in enumerate("aaabcd")]
    part = artifacts.write_part(str(tmp_path), "train", Example, rows)
    table = artifacts.commit(Table, str(tmp_path), Manifest("examples", 1, "curate", 1, "e", {}, {}, [part]))
    wrote = {
        "a": generations("t-print", teacher),
        "b": generations("other", teacher),
        "c": generations("t-print", Teacher(model="t", system="Be long.")),
        "d": generations("t-print", Teacher(model="moved", system="Be brief.", sampling={"temperature": 0})),
    }
    assert score.consistent(wrote, table, [(teacher, model)]) == pytest.approx(4 / 6)
    assert score.consistent({"a": wrote["a"]}, table, [(teacher, model)]) == pytest.approx(3 / 6)
    mixture = [(teacher, model), (teacher, Checkpoint("o", "other"))]
    assert score.consistent(wrote, table, mixture) == pytest.approx(5 / 6)

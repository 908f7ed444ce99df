"""Several teachers as one: the weighted sum of their whole distributions, each behind its own prompt."""

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import build_tiny_model
from test_forward import Largest
from transformers import AutoModelForCausalLM, AutoTokenizer

from raystill import artifacts, chat, recipe, targets
from raystill.artifacts import Checkpoint, Manifest, Table
from raystill.errors import ModelError, ResourceError
from raystill.records import Example, Ids, Message, Targets
from raystill.teachers import units
from raystill.teachers.forward import Forward
from raystill.teachers.mixture import Mixture
from raystill.teachers.scorer import Asked, Scorer

WEIGHTS = {"a": 3.0, "b": 1.0}
ROWS = [
    Asked([5, 9, 11], [7, 8, 3, 0], ([4] * 30,)),
    Asked([6] * 20, [12, 13], ([8, 9],)),
    Asked([4, 4], [21, 22, 23, 24, 25, 26, 0], ([4, 4],)),
]


@pytest.fixture(scope="module")
def padded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wider model whose embedding has 16 rows that no token uses."""
    folder = build_tiny_model(tmp_path_factory.mktemp("models") / "padded", hidden=128, layers=1)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(400)
    model.save_pretrained(folder)
    return folder


def mixture(*folders: Path, **score: Any) -> Mixture:
    config = recipe.Score.model_validate({"mixture": WEIGHTS, **score})
    return Mixture(config, [Forward(config, recipe.Teacher(kind="reference"), str(f)) for f in folders])


def exact(folders: tuple[Path, ...], row: Asked, temperature: float) -> np.ndarray:
    """The mixture in float64 by plain forward passes over whole rows, [T, V]."""
    total = np.zeros((len(row.completion_ids), 400))
    for i, (folder, weight) in enumerate(zip(folders, WEIGHTS.values(), strict=True)):
        seen = row.seen_by(i)
        model = AutoModelForCausalLM.from_pretrained(folder).double()
        with torch.no_grad():
            logits = model(torch.tensor([seen.prompt_ids + seen.completion_ids])).logits[0]
        p = (logits[len(seen.prompt_ids) - 1 : -1] / temperature).softmax(-1).numpy()
        total[:, : p.shape[1]] += weight / sum(WEIGHTS.values()) * p
    return total


@pytest.mark.parametrize("logits_bytes", [1, 9_000, 1 << 30])
def test_it_is_the_weighted_sum_of_whole_distributions(tiny_model: Path, padded: Path, logits_bytes: int) -> None:
    mixed = mixture(tiny_model, padded, k=20, temperature=2)
    for model in mixed.models:
        model.logits_bytes = logits_bytes
    found = asyncio.run(mixed.distributions(ROWS))
    for row, kept in zip(ROWS, found, strict=True):
        p = exact((tiny_model, padded), row, 2.0)
        np.testing.assert_allclose(np.exp(np.concatenate(list(mixed.dense(row)))), p, atol=1e-6)
        assert isinstance(kept, targets.TopK)
        np.testing.assert_allclose(np.exp(kept.logprobs_TK), -np.sort(-p, 1)[:, :20], atol=1e-6)
        np.testing.assert_allclose(
            np.take_along_axis(p, kept.ids_TK.astype(int), 1), np.exp(kept.logprobs_TK), atol=1e-6
        )
        np.testing.assert_allclose(np.exp(kept.logprobs_TK).sum(1) + kept.tail_T, 1, atol=1e-5)
        assert targets.unpack_topk(targets.pack_topk(*kept, mixed.vocabulary)).ids_TK.shape == kept.ids_TK.shape


def test_draws_come_from_the_mixture(tiny_model: Path, padded: Path) -> None:
    """4,800 draws at one token: each id's share lies within 5 standard errors of its probability."""
    row = Asked([5, 9, 11], [7], ([4, 5, 6],))
    p = exact((tiny_model, padded), row, 0.3)[0]
    (found,) = asyncio.run(
        mixture(tiny_model, padded, support="sampled", draws=4800, temperature=0.3).distributions([row])
    )
    assert isinstance(found, targets.Sampled)
    share = np.zeros(400)
    share[found.ids_N] = found.counts_N / 4800
    assert (np.abs(share - p) / np.sqrt(p * (1 - p) / 4800 + 1e-12)).max() < 5


def test_a_long_answer_never_has_all_its_logits_at_once(tiny_model: Path, padded: Path) -> None:
    mixed = mixture(tiny_model, padded)
    for model in mixed.models:
        model.logits_bytes = 64 * 4 * 400
    with Largest() as seen:
        (found,) = asyncio.run(mixed.distributions([Asked([5] * 40, [7] * 440, ([6],))]))
    assert isinstance(found, targets.TopK) and len(found.tail_T) == 440
    assert seen.nbytes <= 4 * 64 * 4 * 400  # chunks of two models, two of either while one waits for the other
    with pytest.raises(ResourceError, match="room for 10 tokens"):
        mixed.longest = 10
        asyncio.run(mixed.distributions(ROWS))


def unit(folder: Path) -> units.Unit:
    said = [Message("user", "Where is order 1?"), Message("assistant", "It is on its way.")]
    rows = [Example("x", "other", 0, "train", said, None, [1], Ids([]))]
    part = artifacts.write_part(str(folder / "e"), "train", Example, rows)
    table = Table(str(folder / "e"), "e", Manifest("examples", 1, "curate", 1, "e", {}, {}, [part]))
    (made,) = units.of(table, {}, str(folder / "t"))
    return made


def scorer(score: recipe.Score, *folders: Path) -> Scorer:
    blocks = [
        recipe.Teacher(kind="reference", system=f"You are teacher {i}.").model_dump() for i, _ in enumerate(folders)
    ]
    first, *further = [(block, Checkpoint(str(f), f.name)) for block, f in zip(blocks, folders, strict=True)]
    return Scorer(score.model_dump(), *first, {}, further)


def test_each_teacher_of_a_mixture_sees_its_own_prompt(tiny_model: Path, padded: Path, tmp_path: Path) -> None:
    score, of = recipe.Score(mixture=WEIGHTS, k=20), unit(tmp_path)
    assert not asyncio.run(scorer(score, tiny_model, padded).run(of)).counts["errors"]
    (row,) = artifacts.decode(Targets, Path(of.url).read_bytes(), of.url)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    prompts = [
        chat.prompt_ids(tokenizer, [Message("system", f"You are teacher {i}."), Message("user", "Where is order 1?")])
        for i in range(2)
    ]
    p = exact((tiny_model, padded), Asked(prompts[0], list(row.completion_ids), (prompts[1],)), 1.0)
    kept = targets.unpack_topk(row.packed)
    np.testing.assert_allclose(kept.logprobs_TK, np.log(np.take_along_axis(p, kept.ids_TK.astype(int), 1)), atol=0.051)


def test_teachers_of_other_tokens_are_not_mixed(tiny_model: Path, tmp_path: Path) -> None:
    other = build_tiny_model(tmp_path / "other", vocabulary=300)
    with pytest.raises(ModelError, match="number their tokens differently"):
        asyncio.run(scorer(recipe.Score(mixture=WEIGHTS), tiny_model, other).run(unit(tmp_path)))
    ends = build_tiny_model(tmp_path / "ends")
    template = ends / "chat_template.jinja"
    template.write_text(template.read_text().replace("{{ eos_token }}", "<|pad|>"))
    with pytest.raises(ModelError, match="end an answer differently"):
        asyncio.run(scorer(recipe.Score(mixture=WEIGHTS), tiny_model, ends).run(unit(tmp_path / "again")))


def test_a_mixtures_identity_is_its_shares() -> None:
    one, two, other = (recipe.Score(mixture=m) for m in ({"a": 3, "b": 1}, {"x": 6, "y": 2}, {"a": 1, "b": 3}))
    assert json.dumps(one.identity()) == json.dumps(two.identity()) != json.dumps(other.identity())

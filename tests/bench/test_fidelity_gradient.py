"""The bench's gradients, written out to share work, are autograd's own of the losses that its docstring names."""

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from raystill import recipe, targets
from raystill.teachers.forward import Forward
from raystill.teachers.scorer import Asked

BENCH = "fidelity"


def loss(
    stored: targets.TopK | targets.Sampled | None, logprobs_TV: torch.Tensor, log_q_TV: torch.Tensor
) -> torch.Tensor:
    """The variant's loss up to a constant, summed over tokens."""
    if stored is None:
        return -(logprobs_TV.exp() * log_q_TV).sum()
    if isinstance(stored, targets.TopK):
        kept_TK = log_q_TV.gather(-1, torch.from_numpy(stored.ids_TK).long())
        rest_T = torch.log1p(-kept_TK.exp().sum(-1))
        return (
            -(torch.from_numpy(stored.logprobs_TK).exp() * kept_TK).sum()
            - (torch.from_numpy(stored.tail_T) * rest_T).sum()
        )
    per_T = np.diff(stored.offsets_T1)
    rows_N = np.repeat(np.arange(len(per_T)), per_T)
    share_N = torch.from_numpy(stored.counts_N).float() / int(stored.counts_N[: per_T[0]].sum())
    return -(share_N * log_q_TV[rows_N, stored.ids_N]).sum()


def test_every_variants_gradient_is_autograds(bench: ModuleType, tiny_model: Path) -> None:
    teacher = Forward(recipe.Score(), recipe.Teacher(kind="reference"), str(tiny_model))
    student = bench.cut(str(tiny_model), [1])
    student.model.embed_tokens.padding_idx = None  # torch leaves that row out of an embedding's gradient
    asked = [Asked([5, 9, 11], [7, 8, 3, 0]), Asked([6] * 9, [12, 13, 40])]
    batch = bench.run(teacher, student, asked)
    log_q_TV = student.lm_head(batch.hidden_Td).log_softmax(-1)
    q_TV = log_q_TV.detach().exp()
    stored = bench.stored_variants(batch.logprobs_TV, np.random.default_rng(0))
    pulls = {"dense": bench.Pull(batch.logprobs_TV.exp())} | {n: bench.pull(n, s, q_TV) for n, s in stored.items()}
    assert set(pulls) == {"dense", *(f"top-{k}" for k in bench.TOPK), *(f"{n} draws" for n in bench.DRAWS)}
    sums = {name: {id(p): torch.zeros_like(p) for p in student.parameters()} for name in pulls}
    with torch.no_grad():
        bench.add_gradients(student, batch, q_TV, pulls, sums)
    for name in pulls:
        whole = loss(stored.get(name), batch.logprobs_TV, log_q_TV)
        expected = torch.autograd.grad(whole, list(student.parameters()), retain_graph=True)
        for parameter, gradient in zip(student.parameters(), expected, strict=True):
            torch.testing.assert_close(sums[name][id(parameter)], gradient, atol=2e-5, rtol=1e-3)
    assert bench.cosine(sums["dense"], sums["dense"]) == pytest.approx(1)
    assert bench.cosine(sums["top-1"], sums["dense"]) < bench.cosine(sums["top-100"], sums["dense"]) < 1


def test_data_that_the_student_learns_from_whole_leaves_nothing(
    bench: ModuleType, tiny_model: Path, tmp_path: Path
) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps({"question": "why", "answer": "because " * 20}) + "\n")
    with pytest.raises(ValueError, match="nothing is left to measure"):
        bench.measure(str(tiny_model), [0], data, tokens=10, learnt=10)

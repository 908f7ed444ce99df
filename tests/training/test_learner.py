"""The loss of a whole model is that of its logits, whether they exist in chunks or all at once."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, LlamaConfig, PretrainedConfig

from raystill import recipe
from raystill.chat import Encoded
from raystill.losses.cross_entropy import cross_entropy
from raystill.training import batches
from raystill.training.learner import Learner
from raystill.training.objective import Objective, Soft, objective
from raystill.training.soft import Span

SHAPE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "pad_token_id": 0,
}
CASES = {
    "plain": (LlamaConfig(**SHAPE), True),
    "tied": (LlamaConfig(**SHAPE, tie_word_embeddings=True), True),
    "capped logits": (Gemma2Config(**SHAPE, final_logit_softcapping=5.0), False),
    "scaled logits": (CohereConfig(**{k: v for k, v in SHAPE.items() if k != "head_dim"}, logit_scale=0.5), False),
}


def corpus(folder: Path) -> batches.Corpus:
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(1, 97, (n,), generator=generator).tolist() for n in (9, 6)]
    batches.store(
        str(folder), (("train", Encoded(i, [k > 2 for k in range(len(i))]), 0.5 + len(i) / 9, Span()) for i in ids)
    )
    return batches.fetch(str(folder))["train"]


@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradient_are_those_of_the_logits(case: str, tmp_path: Path) -> None:
    config: PretrainedConfig
    config, chunked = CASES[case]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    learner = Learner(model, Objective())
    micro = batches.micro(corpus(tmp_path), [0, 1], False, torch.device("cpu"))
    learner.look(micro)
    assert learner.chunked == chunked
    assert model.training
    model.eval()
    found = learner(micro)
    logits_NV = model(**micro.inputs).logits[micro.rows_N, micro.columns_N]
    wanted = (cross_entropy(logits_NV, micro.labels_N) * micro.weights_N).sum()
    torch.testing.assert_close(found, wanted)
    gradients = [torch.autograd.grad(loss, list(model.parameters())) for loss in (found, wanted)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    nothing = learner(batches.micro(corpus(tmp_path / "again"), [], False, torch.device("cpu")))
    nothing.backward()
    assert float(nothing.detach()) == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_text_alone_is_measured_whatever_is_minimised(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CASES["plain"][0]).eval()
    micro = batches.micro(corpus(tmp_path), [0, 1], False, torch.device("cpu"))
    n = len(micro.labels_N)
    teacher_NC = torch.full((n, 3), math.log(1 / 3))
    soft = Soft(torch.tensor([[1, 2]]).expand(n, 2), teacher_NC, torch.ones(n), True)
    micro = dataclasses.replace(micro, soft=soft)
    learner = Learner(model, objective(recipe.Loss(kind="forward_kl"), 1.0))
    minimised, text = learner(micro), Learner(model, Objective())(micro)
    learner.text_only = True
    torch.testing.assert_close(learner(micro), text, rtol=0, atol=0)
    learner.text_only = False
    torch.testing.assert_close(learner(micro), minimised, rtol=0, atol=0)
    assert not torch.isclose(minimised, text)

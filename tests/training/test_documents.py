"""Packing changes nothing: the same losses and gradients as one example at a time, in plain torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen3Config,
)

from raystill.chat import Encoded
from raystill.losses.cross_entropy import cross_entropy
from raystill.training import batches, documents, loading
from raystill.training.soft import Span

CPU = torch.device("cpu")
SHAPE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
CONFIGS: dict[str, Callable[[], PretrainedConfig]] = {
    "llama": lambda: LlamaConfig(**SHAPE),
    "phi3": lambda: Phi3Config(**SHAPE),
    "qwen3": lambda: Qwen3Config(**SHAPE, head_dim=16),
    "mistral with a sliding window": lambda: MistralConfig(**SHAPE, sliding_window=8),
}
LENGTHS = [23, 19, 12, 11, 5, 2]


def corpus(folder: Path) -> batches.Corpus:
    generator = torch.Generator().manual_seed(0)
    made = []
    for n in LENGTHS:
        ids = torch.randint(1, 97, (n,), generator=generator).tolist()
        made.append(("train", Encoded(ids, [i > n // 3 for i in range(n)]), 1.0, Span()))
    batches.store(str(folder), made)
    return batches.fetch(str(folder))["train"]


def loss_and_gradient(
    config: PretrainedConfig, micros: list[batches.Micro], attention: str
) -> tuple[float, torch.Tensor]:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    total = torch.zeros(())
    for micro in micros:
        logits = model(**micro.inputs).logits[micro.rows_N, micro.columns_N]
        total = total + cross_entropy(logits, micro.labels_N).sum()
    total.backward()
    return float(total), torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("name", CONFIGS)
def test_packed_and_padded_equal_one_at_a_time(name: str, tmp_path: Path) -> None:
    examples = corpus(tmp_path)
    every = list(range(len(LENGTHS)))
    alone = [batches.micro(examples, [i], False, CPU) for i in every]
    packed = [batches.micro(examples, every, True, CPU)]
    halves = [batches.micro(examples, every[0::2], True, CPU), batches.micro(examples, every[1::2], True, CPU)]
    padded = [batches.micro(examples, every, False, CPU)]
    own = documents.register()
    expected, gradient = loss_and_gradient(CONFIGS[name](), alone, "sdpa")
    for micros, attention in ((packed, own), (halves, own), (padded, "sdpa")):
        loss, other = loss_and_gradient(CONFIGS[name](), micros, attention)
        assert loss == pytest.approx(expected, rel=1e-5)
        assert torch.allclose(other, gradient, atol=1e-5 * float(gradient.abs().max()))


def test_a_change_in_one_document_leaves_the_others_alone(tmp_path: Path) -> None:
    examples = corpus(tmp_path)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS["llama"](), attn_implementation=documents.register()).eval()
    inputs = dict(batches.micro(examples, [0, 1, 2], True, CPU).inputs) | {"logits_to_keep": 0}
    before = model(**inputs).logits
    inputs["input_ids"] = inputs["input_ids"].clone()
    inputs["input_ids"][0, 25] += 1
    after = model(**inputs).logits
    second = slice(22, 22 + 18)
    assert torch.equal(before[0, :22], after[0, :22])
    assert torch.equal(before[0, 40:], after[0, 40:])
    assert not torch.equal(before[0, second], after[0, second])


@pytest.mark.slow
def test_layers_are_compiled_once_for_all_micro_batches(tmp_path: Path) -> None:
    from torch._dynamo.utils import counters

    examples, own = corpus(tmp_path), documents.register()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS["llama"](), attn_implementation=own)
    micros = [batches.micro(examples, of, True, CPU) for of in ([0, 1], [2, 3, 4], [1, 2, 3, 4, 5], [0, 4])]

    def losses() -> list[torch.Tensor]:
        return [model(**m.inputs).logits[m.rows_N, m.columns_N].logsumexp(1).sum() for m in micros]

    plain = losses()
    loading.compile_layers(model)
    counters.clear()
    compiled = losses()
    for loss, wanted in zip(compiled, plain, strict=True):
        torch.testing.assert_close(loss, wanted)
    # What lies before the attention and what lies after it, for documents and for all layers alike.
    assert 0 < counters["stats"]["unique_graphs"] <= 4


def test_groups_hold_similar_lengths_and_put_every_token_back() -> None:
    made = documents.packed([20, 12, 10, 9, 3], CPU).groups
    assert [g.documents for g in made] == [3, 1, 1]
    row = torch.arange(54)
    assert torch.cat([row[g.take_DL][g.back_N] for g in made]).equal(row)

"""Students that people name first: each architecture learns, whole and with LoRA, and comes back from its export.

The shapes are tiny and random; what makes an architecture its own is kept: fused projections, partial and scaled rotary
positions, a sliding window, norms on queries and keys, tied heads.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen3Config,
)

from raystill import recipe
from raystill.artifacts import ADAPTER, Checkpoint
from raystill.chat import Encoded
from raystill.training import adapters, batches, export, loading, optimizers
from raystill.training.learner import Learner
from raystill.training.objective import Objective
from raystill.training.soft import Span

CPU = torch.device("cpu")
SHAPE: dict[str, Any] = {
    "vocab_size": 131,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
GROUPED = SHAPE | {"num_attention_heads": 6, "num_key_value_heads": 2}
REACH = 24
"""Positions before scaling: the corpus has examples on both sides of it."""


def long_rope(rotated: int) -> dict[str, Any]:
    """Factors of each of the rotated / 2 frequencies, for examples up to REACH and beyond."""
    return {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0 + 0.01 * i for i in range(rotated // 2)],
        "long_factor": [1.0 + 0.5 * i for i in range(rotated // 2)],
        "original_max_position_embeddings": REACH,
    }


LLAMA = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
PHI = ["down_proj", "gate_up_proj", "o_proj", "qkv_proj"]
STUDENTS: dict[str, tuple[PretrainedConfig, list[str]]] = {
    "Phi-4-mini": (
        Phi3Config(
            **GROUPED | {"tie_word_embeddings": True},
            max_position_embeddings=256,
            original_max_position_embeddings=REACH,
            rope_parameters=long_rope(6) | {"partial_rotary_factor": 0.75},
            sliding_window=256,
        ),
        PHI,
    ),
    "Phi-3-mini-4K": (Phi3Config(**SHAPE, max_position_embeddings=REACH, sliding_window=20), PHI),
    "Phi-3-mini-128K": (
        Phi3Config(
            **SHAPE,
            max_position_embeddings=256,
            original_max_position_embeddings=REACH,
            rope_parameters=long_rope(16),
            sliding_window=512,
        ),
        PHI,
    ),
    "Phi-3.5-mini": (
        Phi3Config(
            **SHAPE,
            max_position_embeddings=256,
            original_max_position_embeddings=REACH,
            rope_parameters=long_rope(16) | {"short_factor": [1.0] * 8, "long_factor": [4.0] * 8},
            sliding_window=512,
        ),
        PHI,
    ),
    "Llama-3.1-8B": (
        LlamaConfig(
            **GROUPED,
            max_position_embeddings=256,
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": REACH,
            },
        ),
        LLAMA,
    ),
    "Qwen3": (Qwen3Config(**GROUPED, head_dim=16, max_position_embeddings=256), LLAMA),
    "SmolLM2": (LlamaConfig(**GROUPED | {"tie_word_embeddings": True}, max_position_embeddings=256), LLAMA),
}


def corpus(folder: Path) -> batches.Corpus:
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(3, 131, (n,), generator=generator).tolist() for n in (REACH + 12, REACH - 4, 9, 6)]
    made = (("train", Encoded(i, [k > 3 for k in range(len(i))]), 1.0, Span()) for i in ids)
    batches.store(str(folder), made)
    return batches.fetch(str(folder))["train"]


@pytest.mark.parametrize("lora", [None, recipe.Lora(r=4)], ids=["full", "lora"])
@pytest.mark.parametrize("name", STUDENTS)
def test_it_learns_and_its_export_is_what_was_trained(name: str, lora: recipe.Lora | None, tmp_path: Path) -> None:
    config, layers = STUDENTS[name]
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    train = recipe.Train(lora=lora, learning_rate=3e-3)
    model, parameters = loading.student(str(tmp_path / "base"), train, recipe.Workers(), CPU)
    before = {n: p.detach().clone() for n, p in model.named_parameters() if not p.requires_grad}
    adapted = {n.split(".lora_")[0] for n, p in model.named_parameters() if p.requires_grad and ".lora_" in n}
    assert {n.rpartition(".")[2] for n in adapted} == (set(layers) if lora else set())
    assert parameters == sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    learner, examples = Learner(model, Objective()), corpus(tmp_path)
    optimizer = optimizers.build(model, train)
    micros = [batches.micro(examples, of, True, CPU) for of in ([0], [1, 2, 3])]
    learner.look(micros[1])
    assert learner.chunked
    losses = []
    for _ in range(3):
        loss = torch.stack([learner(m) for m in micros]).sum() / batches.supervised(examples, range(4))
        losses.append(float(loss.detach()))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[2] < losses[1] < losses[0]
    after = dict(model.named_parameters())
    assert all(torch.equal(after[n], tensor) for n, tensor in before.items())
    state = {n: adapters.dense(p).clone() for n, p in model.eval().named_parameters()}
    with torch.no_grad():
        logits = {i: model(**batches.micro(examples, [i], True, CPU).inputs).logits[0] for i in (0, 2)}
    plain = model
    if lora:
        base = Checkpoint(str(tmp_path / "base"), "m")
        plain, state = adapters.detach(model, state, tmp_path / "out" / ADAPTER, base)
    plain.save_pretrained(tmp_path / "out", state_dict=state)
    for i, logits_TV in logits.items():
        ids = examples.ids[examples.starts[i] : examples.ends[i] - 1].tolist()
        assert export.compare(tmp_path / "out", ids, logits_TV) < 1e-4

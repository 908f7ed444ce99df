"""What only a GPU can train: 4-bit weights, 8-bit optimizer, Liger's kernels, flash attention, NVMe, ZeRO++."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, LlamaConfig, Phi3Config, Qwen3Config

from raystill import recipe
from raystill.artifacts import ADAPTER, Checkpoint
from raystill.chat import Encoded
from raystill.training import adapters, batches, documents, export, kernels, loop
from raystill.training.soft import Span

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU, and this machine has none"),
]
NVME: dict[str, Any] = {
    "offload_optimizer": {"device": "nvme", "nvme_path": "FOLDER"},
    "offload_param": {"device": "nvme", "nvme_path": "FOLDER"},
}
PLUS: dict[str, Any] = {"zero_quantized_weights": True}
FOUR = recipe.Lora(r=8, quantize="nf4")
CASES: dict[str, tuple[recipe.Lora | None, str, int, dict[str, Any]]] = {
    "all weights": (None, "adamw_fused", 1, {}),
    "8-bit optimizer": (None, "adamw_8bit", 1, {}),
    "8-bit optimizer without ZeRO": (None, "adamw_8bit", 0, {}),
    "QLoRA": (FOUR, "adamw", 0, {}),
    "QLoRA, ZeRO 2": (FOUR, "adamw_8bit", 2, {}),
    "offloaded to the CPU": (None, "adamw_fused", 2, {"offload_optimizer": {"device": "cpu"}}),
    "offloaded to NVMe": (None, "adamw", 3, NVME),
    "ZeRO++": (None, "adamw", 3, PLUS),
}


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1")
    store = tmp_path_factory.mktemp("group") / "store"
    dist.init_process_group("nccl", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def store(folder: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(5, 300, (6 + i % 9,), generator=generator).tolist() for i in range(16)]
    made = (("train", Encoded(i, [k > 2 for k in range(len(i))]), 1.0, Span()) for i in ids)
    batches.store(str(folder / "work" / "attempt"), made)


@pytest.mark.parametrize("case", CASES)
def test_it_learns_and_its_export_is_what_was_trained(group: None, tiny_model: Path, tmp_path: Path, case: str) -> None:
    lora, optimizer, stage, keys = CASES[case]
    store(tmp_path)
    text = {k: {n: str(tmp_path) if n == "nvme_path" else x for n, x in v.items()} if isinstance(v, dict) else v
            for k, v in keys.items()}  # fmt: skip
    train = recipe.Train(
        epochs=4, batch_size=8, lora=lora, optimizer=optimizer, learning_rate=3e-3,
        deepspeed={"zero_optimization": text} if text else {},
    )  # fmt: skip
    compute = recipe.Workers(workers=1, zero=stage, micro_tokens=256)
    base = Checkpoint(str(tiny_model), "m")
    worker = loop.start(loop.Job(train, 1.0, compute, base, str(tmp_path), "attempt", True, 1, None))
    rows = [loop.one_step(worker, batches.batch(16, 4, 8, 0, step), step, 3e-3, stop=False)[:2] for step in range(8)]
    assert all(applied for _, applied in rows)
    assert rows[-1][0] < rows[0][0] - 0.05
    student = worker.engine.module.student
    worker.engine.eval()
    micro = loop.shortest(worker.corpora["train"], True, worker.device)
    with torch.no_grad():
        logits_TV = student(**micro.inputs).logits[0].cpu()
    state = loop.gathered(worker.engine, keep=True)
    if lora:
        student, state = adapters.detach(student, state, tmp_path / "out" / ADAPTER, base)
    export.save(student, str(tiny_model), tmp_path / "out", state)
    export.compare(tmp_path / "out", micro.inputs["input_ids"][0].tolist(), logits_TV)


SHAPE: dict[str, Any] = {
    "vocab_size": 320,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "eos_token_id": 1,
}


def loss_and_gradient(model: Any, micro: batches.Micro) -> tuple[float, torch.Tensor]:
    model.zero_grad()
    logits_NV = model(**micro.inputs).logits[micro.rows_N, micro.columns_N]
    loss = torch.nn.functional.cross_entropy(logits_NV.float(), micro.labels_N)
    loss.backward()
    return float(loss.detach()), torch.cat([p.grad.float().flatten() for p in model.parameters()])


@pytest.mark.skipif(importlib.util.find_spec("liger_kernel") is None, reason="liger-kernel is not installed")
@pytest.mark.parametrize("config", [LlamaConfig(**SHAPE), Phi3Config(**SHAPE), Qwen3Config(**SHAPE, head_dim=32)])
def test_ligers_kernels_change_nothing(config: Any, tmp_path: Path) -> None:
    store(tmp_path)
    examples = batches.fetch(str(tmp_path / "work" / "attempt"))["train"]
    micro = batches.micro(examples, list(range(8)), False, torch.device("cuda"))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).cuda()
    loss, gradient = loss_and_gradient(model, micro)
    assert "Liger" in kernels.fit(model)
    fused_loss, fused_gradient = loss_and_gradient(model, micro)
    assert fused_loss == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(fused_gradient, gradient, rtol=1e-3, atol=1e-5)
    plain = AutoModelForCausalLM.from_config(config)
    assert not [m for m in plain.modules() if "liger" in type(m).__module__ + m.forward.__module__]


@pytest.mark.skipif(importlib.util.find_spec("flash_attn") is None, reason="flash-attn is not installed")
def test_flash_attention_keeps_packed_documents_apart(tmp_path: Path) -> None:
    store(tmp_path)
    examples = batches.fetch(str(tmp_path / "work" / "attempt"))["train"]
    order = sorted(range(8), key=lambda i: -int(examples.lengths[i]))
    micro = batches.micro(examples, order, True, torch.device("cuda"))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE), attn_implementation=documents.register())
    model = model.to("cuda", torch.bfloat16)
    loss, gradient = loss_and_gradient(model, micro)
    model.set_attn_implementation("flash_attention_2")
    flash_loss, flash_gradient = loss_and_gradient(model, micro)
    assert flash_loss == pytest.approx(loss, rel=1e-2)
    assert float(torch.nn.functional.cosine_similarity(flash_gradient, gradient, dim=0)) > 0.99

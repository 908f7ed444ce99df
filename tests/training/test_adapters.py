"""LoRA: what it may train beside, that ZeRO and packing change nothing, and that the export is what was trained."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from transformers import AutoModelForCausalLM

from raystill import recipe
from raystill.artifacts import ADAPTER, Checkpoint
from raystill.chat import Encoded
from raystill.errors import RecipeError
from raystill.training import adapters, batches, export, loop, zero
from raystill.training.soft import Span

LORA = recipe.Lora(r=4, alpha=16)


def test_targets_are_all_linear_layers_but_the_head(tiny_model: Path) -> None:
    model = adapters.blank(str(tiny_model))
    assert {p.device.type for p in model.parameters()} == {"meta"}
    every = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert adapters.targets(model, LORA) == every
    chosen = recipe.Lora(targets=["layers.1.self_attn.q_proj", "v_proj"])
    adapters.attach(model, chosen)
    found = {name.split(".lora_")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert found == {
        "model.layers.1.self_attn.q_proj", "model.layers.0.self_attn.v_proj", "model.layers.1.self_attn.v_proj",
    }  # fmt: skip


@pytest.mark.parametrize("wrong", ["query_key_value", "lm_head", "embed_tokens", "proj"])
def test_a_target_that_the_model_lacks_is_refused_with_those_it_has(tiny_model: Path, wrong: str) -> None:
    lora = recipe.Lora(targets=["q_proj", wrong])
    with pytest.raises(RecipeError, match=rf"no linear layer {wrong} .*down_proj, gate_proj, k_proj, o_proj, q_proj"):
        adapters.targets(adapters.blank(str(tiny_model)), lora)


def test_merged_weights_and_adapter_over_the_base_say_the_same(tiny_model: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    ids = list(range(5, 25))
    base = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    before_TV = base(torch.tensor([ids])).logits[0].detach()
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    adapters.attach(model, LORA)
    torch.testing.assert_close(model(torch.tensor([ids])).logits[0], before_TV)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    logits_TV = model(torch.tensor([ids])).logits[0].detach()
    assert float((logits_TV - before_TV).abs().max()) > 0.1
    state = {name: p.detach().clone() for name, p in model.named_parameters()}
    where = tmp_path / "model"
    plain, merged = adapters.detach(model, state, where / ADAPTER, Checkpoint(str(tiny_model), "m"))
    export.save(plain, str(tiny_model), where, merged)
    assert export.compare(where, ids, logits_TV) < 1e-5
    over = PeftModel.from_pretrained(base, where / ADAPTER)
    torch.testing.assert_close(over(torch.tensor([ids])).logits[0], logits_TV, rtol=1e-5, atol=1e-5)
    config = json.loads((where / ADAPTER / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"], config["lora_alpha"]) == (str(tiny_model), 4, 16)


EXAMPLES = 16
CPU = {"offload_optimizer": {"device": "cpu"}}
# Without the threshold ZeRO 3 would shard no tensor of so small a model.
SHARD = {"stage3_param_persistence_threshold": 0}
PARAM = {"offload_param": {"device": "cpu"}}
LAYOUTS: dict[str, dict[str, Any]] = {
    "plain": {"workers": 1, "zero": 0},
    "padded": {"workers": 1, "micro_tokens": 24, "packing": False},
    "fused": {"workers": 1, "optimizer": "adamw_fused"},
    "checkpointed": {"workers": 1, "zero": 0, "activation_checkpointing": True},
    "compiled": {"workers": 1, "micro_tokens": 24, "compile": True},
    "compiled and checkpointed": {"workers": 1, "compile": True, "activation_checkpointing": True},
    "1": {"zero": 1},
    "2": {"zero": 2, "activation_checkpointing": True},
    "3": {"zero": 3, "activation_checkpointing": True, "keys": SHARD},
    "1, offloaded": {"zero": 1, "optimizer": "adamw_fused", "keys": CPU},
    "2, offloaded": {"zero": 2, "keys": CPU},
    "3, offloaded": {"zero": 3, "keys": SHARD | CPU | PARAM},
}
"""Keys of compute.train (two workers and 24 tokens unless said), of train, and DeepSpeed's own."""


def learn(rank: int, folder: str, model: str, workers: int, lora: recipe.Lora | None) -> None:
    """Three steps in each layout of so many workers: losses, and the weights after them."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(workers))
    zero.environment(gpu=False)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store-{workers}", rank=rank, world_size=workers)
    seen: dict[str, Any] = {}
    for name, layout in LAYOUTS.items():
        given = {"workers": 2, "micro_tokens": 24 if "workers" not in layout else 4096} | layout
        if given["workers"] != workers:
            continue
        own = {"zero_optimization": given.pop("keys")} if "keys" in given else {}
        of_train = {key: given.pop(key) for key in ("packing", "optimizer") if key in given}
        train = recipe.Train(epochs=3, batch_size=8, lora=lora, deepspeed=own, **of_train)
        compute = recipe.Workers(**given)
        job = loop.Job(train, 1.0, compute, Checkpoint(model, "m"), folder, "attempt", False, 1, None)
        worker = loop.start(job)
        assert not [m for m in worker.engine.modules() if "liger" in m.forward.__module__]
        rows = [
            loop.one_step(worker, batches.batch(EXAMPLES, 3, 8, 0, step), step, 1e-2, stop=False)[:2]
            for step in range(3)
        ]
        state = loop.gathered(worker.engine, keep=True)
        seen[name] = (rows, {k: v for k, v in state.items() if lora is None or "lora_" in k}, worker.parameters)
        if lora:
            frozen = {k.replace(".base_layer.", "."): v for k, v in state.items() if "lora_" not in k}
            base = AutoModelForCausalLM.from_pretrained(model).state_dict()
            assert all(torch.equal(v, base[k]) for k, v in frozen.items()) and len(frozen) > 10
    if rank == 0:
        torch.save(seen, f"{folder}/seen-{workers}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_zero_offload_checkpointing_and_packing_change_nothing(
    tiny_model: Path, tmp_path: Path, lora: recipe.Lora | None
) -> None:
    generator = torch.Generator().manual_seed(0)
    lengths = [6 + i % 7 for i in range(EXAMPLES)]
    ids = [torch.randint(5, 300, (n,), generator=generator).tolist() for n in lengths]
    made = (("train", Encoded(i, [k > 2 for k in range(len(i))]), 1.0, Span()) for i in ids)
    batches.store(str(tmp_path / "work" / "attempt"), made)
    for workers in (1, 2):
        mp.spawn(learn, (str(tmp_path), str(tiny_model), workers, lora), nprocs=workers)
    seen = {k: v for w in (1, 2) for k, v in torch.load(tmp_path / f"seen-{w}.pt").items()}
    assert set(seen) == set(LAYOUTS)
    wanted, weights, parameters = seen["plain"]
    losses = [loss for loss, _ in wanted]
    assert losses[2] < losses[0] - 0.01 and all(math.isfinite(loss) for loss in losses)
    assert any(bool(w.any()) for w in weights.values())
    for name, (rows, state, counted) in seen.items():
        assert all(applied for _, applied in rows), name
        assert counted == parameters, name
        assert [loss for loss, _ in rows] == pytest.approx(losses, rel=1e-5), name
        assert state.keys() == weights.keys(), name

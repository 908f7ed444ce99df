"""On a GPU: a share of its peak that can be, and a training that does not fit is told, not lived through."""

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import build_tiny_model
from transformers import AutoModelForCausalLM, LlamaConfig

from raystill import recipe
from raystill.training import gauges, preflight

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")]


def test_utilisation_is_a_share_of_a_known_peak() -> None:
    device = torch.device("cuda")
    config = LlamaConfig(hidden_size=2048, intermediate_size=8192, num_hidden_layers=4, num_attention_heads=16)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).to(device)
    ids = torch.randint(0, 1000, (8, 1024), device=device)
    seen = gauges.gauges(model, device, 1)
    if seen.peak is None:
        pytest.skip(f"the peak of {torch.cuda.get_device_name()} is not known")
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    for _ in range(3):
        start.record()
        model(input_ids=ids, use_cache=False).logits.float().mean().backward()
        end.record()
    torch.cuda.synchronize()
    row = seen.read([1024] * 8, 8 * 1024, start.elapsed_time(end) / 1000)
    assert row["mfu"] is not None and 0.05 < row["mfu"] < 1
    assert row["memory_bytes"] == torch.cuda.max_memory_allocated()


def test_a_training_that_does_not_fit_is_told(tmp_path: Path) -> None:
    model = build_tiny_model(tmp_path / "model", hidden=1024, layers=8)
    small, large = (
        preflight.Trial(recipe.Train(max_length=1024), recipe.Workers(micro_tokens=n), str(model), 1, 4, True)
        for n in (2048, 4_000_000)
    )
    assert preflight.run(small).fits
    assert not preflight.run(large).fits

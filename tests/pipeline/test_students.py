"""The flagship recipe with tiny random models of its own architectures: DeepSeek-V3 teaches Phi-3, Llama and Qwen3."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
DEEPSEEK = SIZES | {
    "tie_word_embeddings": False,
    "kv_lora_rank": 512,  # the CPU attention kernel of latent attention is built for this and the next
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
    "q_lora_rank": 32,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "n_shared_experts": 1,
    "moe_intermediate_size": 64,
    "first_k_dense_replace": 1,
}


def random_model(folder: Path, kind: str, tokenizer: Path, sizes: dict[str, Any]) -> Path:
    """A random model of an architecture, with the tiny tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    words = AutoTokenizer.from_pretrained(tokenizer)
    ids = {"eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id, "bos_token_id": None}
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=len(words), dtype="float32", **sizes, **ids)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    words.save_pretrained(folder)
    if kind == "deepseek_v3":  # transformers leaves out what vLLM asks for
        path = folder / "config.json"
        path.write_text(
            json.dumps(json.loads(path.read_text()) | {"topk_method": "noaux_tc", "scoring_func": "sigmoid"})
        )
    return folder


def test_the_flagship_recipe_runs_through(tiny_model: Path, tmp_path: Path) -> None:
    rows = [
        {
            "id": f"c{i}",
            "messages": [
                {"role": "user", "content": f"Where is order {i}?"},
                {"role": "assistant", "content": "On its way."},
                {"role": "user", "content": "When will it be here?"},
                {"role": "assistant", "content": f"In {i % 7} days."},
            ],
        }
        for i in range(60)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = yaml.safe_load((ROOT / "jobs" / "support-deepseek-phi4.yaml").read_text())
    teacher = random_model(tmp_path / "teacher", "deepseek_v3", tiny_model, DEEPSEEK)
    kinds = {"phi": "phi3", "llama": "llama", "qwen": "qwen3"}
    more = {"qwen": {"head_dim": 32}}
    students = {n: random_model(tmp_path / n, k, tiny_model, SIZES | more.get(n, {})) for n, k in kinds.items()}

    recipe["root"] = str(tmp_path / "runs")
    recipe["data"] = {"train": str(tmp_path / "rows.jsonl"), "id": "id", "turns": "each"}
    recipe["teacher"] = recipe["teacher"] | {"model": str(teacher), "engine": {}}
    recipe["teacher"]["sampling"] = {"max_tokens": 8}
    recipe.pop("student")
    recipe["students"] = {name: {"model": str(folder)} for name, folder in students.items()}
    recipe["curate"] = {"filters": ["empty"]}
    recipe["train"] = {"epochs": 1, "max_length": 256, "validations": 1}
    recipe["evaluate"] = {"limit": 4, "max_tokens": 8, "load": [1], "load_requests": 2}
    recipe["compute"] = {}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    done = subprocess.run([sys.executable, "-m", "raystill", "run", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    report = json.loads((tmp_path / "runs" / "reports" / recipe["name"] / "report.json").read_text())
    assert set(kinds) < set(report["models"])
    assert len(list((tmp_path / "runs" / "generate").glob("*/manifest.json"))) == 1
    assert len(list((tmp_path / "runs" / "train").glob("*/manifest.json"))) == 3

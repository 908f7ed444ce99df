"""Recipes for a cluster, as tests render them."""

import copy
from pathlib import Path
from typing import Any

import yaml

from raystill.launch.render import as_yaml, render
from raystill.recipe import Recipe

ROOT = Path(__file__).parents[2]
FLAGSHIP = ROOT / "jobs" / "support-deepseek-phi4.yaml"
IMAGE = f"registry.example.com/raystill/gpu@sha256:{'0' * 64}"
Doc = dict[str, Any]


def values(**changes: Any) -> dict[str, Any]:
    """A small recipe's values; `compute` and `kubernetes` are merged into its own."""
    kubernetes = {"image": IMAGE, "gpu": "h100"} | changes.pop("kubernetes", {})
    whole = {
        "name": "small",
        "root": "s3://bucket/raystill",
        "task": "conversation",
        "data": {"train": "s3://bucket/train.jsonl"},
        "teacher": {"model": "Qwen/Qwen3-32B", "engine": {"tensor_parallel_size": 2}},
        "student": {"model": "Qwen/Qwen3-0.6B"},
        **changes,
    }
    return whole | {"compute": {**changes.get("compute", {}), "kubernetes": kubernetes}}


CASES: dict[str, dict[str, Any]] = {
    "flagship": yaml.safe_load(FLAGSHIP.read_text()),
    "small": values(),
    "elastic on spot": values(
        compute={"generate": {"replicas": [1, 16]}}, kubernetes={"spot": {"cloud.google.com/gke-spot": "true"}}
    ),
    "a teacher of two nodes": values(
        teacher={"model": "meta-llama/Llama-3.1-405B-Instruct"},
        compute={"generate": {"replicas": 3, "tensor_parallel": 8, "pipeline_parallel": 2}},
    ),
    "every option": values(
        score={"kind": "transformers"},
        train={"loss": {"kind": "forward_kl"}},
        compute={"train": {"workers": 24}},
        kubernetes={
            "cpu_image": IMAGE,
            "namespace": "team-a",
            "service_account": "distil",
            "node_selector": {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"},
            "queue": "team-a",
            "storage_class": "fast",
            "rdma": "rdma/ib",
            "redis": "raystill-redis:6379",
            "secrets": {"RAYSTILL_API_KEY": "serve/key", "HF_TOKEN": "hf/token"},
        },
    ),
    "two students together": values(
        student=None,
        students={"small": {"model": "Qwen/Qwen3-0.6B"}, "large": {"model": "Qwen/Qwen3-4B"}},
        evaluate={"together": True},
    ),
    "an API as teacher": values(
        teacher={
            "kind": "endpoint",
            "endpoint": {"url": "https://api.example.com/v1", "model": "big", "key_env": "API_KEY"},
        },
        kubernetes={"secrets": {"RAYSTILL_API_KEY": "serve/key", "API_KEY": "api/key"}},
    ),
    "scripted": values(teacher={"kind": "scripted"}),
    "students that come and go": values(
        student=None,
        students={"small": {"model": "Qwen/Qwen3-0.6B"}, "large": {"model": "Qwen/Qwen3-4B"}},
        serve={"replicas": {"small": {"min_replicas": 1, "max_replicas": 4}, "large": {"min_replicas": 0}}},
    ),
}


def rendered(case: str) -> list[Doc]:
    """A case's documents as a reader of their YAML sees them."""
    text = FLAGSHIP.read_text() if case == "flagship" else yaml.safe_dump(CASES[case], sort_keys=False)
    documents = render(Recipe.model_validate(CASES[case]), text)
    return list(yaml.safe_load_all(as_yaml(documents)))


def of_stage(documents: list[Doc], stage: str) -> Doc:
    """A copy of one stage's document."""
    return copy.deepcopy(next(doc for doc in documents if doc["metadata"]["labels"]["raystill.io/stage"] == stage))

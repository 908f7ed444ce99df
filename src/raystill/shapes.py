"""The shape of a language model: what its config.json says, or is known to say, before any weight is read."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from raystill import models
from raystill.errors import ModelError


@dataclass(frozen=True)
class Shape:
    """A decoder-only transformer. Counts are of whole numbers; `context` is in tokens."""

    family: str
    hidden: int
    layers: int
    heads: int
    of_keys: int
    """Key-value heads."""
    head: int
    """Size of one head."""
    inner: int
    """Width of the gated feed-forward layer."""
    vocabulary: int
    """Logits: ids of its tokenizer, and often some that no token has."""
    context: int
    tied: bool
    """Whether the input embedding is also the output head."""
    experts: bool = False
    licence: str | None = None
    total: int | None = None
    """All parameters of a mixture of experts, which are counted from no shape."""
    active: int | None = None
    """Of those, the ones that a token passes."""
    latent: int = 0
    """Numbers that latent attention caches of a token in a layer, in place of keys and values."""
    stored: int = 2
    """Bytes of a weight in its files: 1 in fp8."""

    @property
    def body(self) -> int | None:
        """Parameters of the layers: projections of attention, three of the feed-forward layer, norms. None with experts."""
        if self.experts:
            return None
        attention = self.hidden * self.head * (2 * self.heads + 2 * self.of_keys)
        norms = 2 * self.hidden + (2 * self.head if self.family == "qwen3" else 0)
        biases = self.head * (self.heads + 2 * self.of_keys) if self.family == "qwen2" else 0
        return self.layers * (attention + biases + 3 * self.hidden * self.inner + norms) + self.hidden

    @property
    def parameters(self) -> int | None:
        """All of them; with experts, whose number the config of each family says otherwise, only where it is known."""
        embedding = self.vocabulary * self.hidden
        return self.total if self.body is None else self.body + embedding * (1 if self.tied else 2)

    @property
    def cached(self) -> int:
        """Numbers that all layers cache of a token."""
        return self.layers * (self.latent or 2 * self.of_keys * self.head)

    @property
    def size(self) -> str:
        """The number of parameters as people write it."""
        if self.parameters is None:
            return "unknown"
        return f"{self.parameters / 1e9:.3g}B" if self.parameters >= 1e9 else f"{self.parameters / 1e6:.3g}M"

    def __str__(self) -> str:
        return (
            f"{self.size} parameters, {self.layers} layers of {self.hidden:,}, {self.heads} heads ({self.of_keys} of keys), "
            f"vocabulary {self.vocabulary:,}, context {self.context:,}, licence {self.licence or 'not stated'}"
        )


phi3 = partial(Shape, "phi3", 3072, 32, inner=8192, licence="mit")
mini = partial(phi3, 32, 32, 96, vocabulary=32_064, tied=False)
qwen3 = partial(Shape, "qwen3", of_keys=8, head=128, vocabulary=151_936, context=40_960, licence="apache-2.0")
smollm2 = partial(Shape, "llama", head=64, vocabulary=49_152, context=8192, tied=True, licence="apache-2.0")
llama = partial(
    Shape, "llama", of_keys=8, head=128, vocabulary=128_256, context=131_072, tied=False, licence="llama3.1"
)
llama8b, llama70b = llama(4096, 32, 32, inner=14_336), llama(8192, 80, 64, inner=28_672)
KNOWN: dict[str, Shape] = {
    "microsoft/Phi-4-mini-instruct": phi3(24, 8, 128, vocabulary=200_064, context=131_072, tied=True),
    "microsoft/Phi-3-mini-4k-instruct": mini(context=4096),
    "microsoft/Phi-3-mini-128k-instruct": mini(context=131_072),
    "microsoft/Phi-3.5-mini-instruct": mini(context=131_072),
    "meta-llama/Llama-3.1-8B": llama8b,
    "meta-llama/Llama-3.1-8B-Instruct": llama8b,
    "meta-llama/Llama-3.1-70B-Instruct": llama70b,
    "meta-llama/Llama-3.1-405B-Instruct": llama(16_384, 126, 128, inner=53_248),
    "meta-llama/Llama-3.1-405B-Instruct-FP8": llama(16_384, 126, 128, inner=53_248, stored=1),
    "deepseek-ai/DeepSeek-V3": Shape(
        "deepseek_v3",
        7168,
        61,
        128,
        128,
        128,
        18_432,
        129_280,
        163_840,
        False,
        experts=True,
        licence="deepseek",
        total=671_026_419_200,
        active=37_000_000_000,
        latent=512 + 64,
        stored=1,
    ),
    "Qwen/Qwen3-0.6B": qwen3(1024, 28, 16, inner=3072, tied=True),
    "Qwen/Qwen3-1.7B": qwen3(2048, 28, 16, inner=6144, tied=True),
    "Qwen/Qwen3-4B": qwen3(2560, 36, 32, inner=9728, tied=True),
    "Qwen/Qwen3-8B": qwen3(4096, 36, 32, inner=12_288, tied=False),
    "Qwen/Qwen3-32B": qwen3(5120, 64, 64, inner=25_600, tied=False),
    "HuggingFaceTB/SmolLM2-135M-Instruct": smollm2(576, 30, 9, 3, inner=1536),
    "HuggingFaceTB/SmolLM2-360M-Instruct": smollm2(960, 32, 15, 5, inner=2560),
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": smollm2(2048, 24, 32, 32, inner=8192),
}
"""Models whose weights need not be here to plan with them: each one's config.json, and the licence of its model card, as
published on the hub under its id (read 2026). A test counts their parameters with transformers."""


def of(model: str) -> Shape | None:
    """A local folder's, a known model's, or that of a hub id whose config.json is in the hub's cache. None: not at hand."""
    if Path(model).is_dir():
        try:
            found = parse(models.config(model) or {})
        except ModelError:
            return None
        return replace(found, licence=licence(Path(model))) if found else None
    return KNOWN.get(model) or _cached(model)


def parse(config: Mapping[str, Any]) -> Shape | None:
    """The shape in a config.json, or in the language half of a model that also sees; None where it is not told."""
    text: Mapping[str, Any] = config.get("text_config", config)
    try:
        heads, hidden = int(text["num_attention_heads"]), int(text["hidden_size"])
        return Shape(
            family=str(text.get("model_type", "")),
            hidden=hidden,
            layers=int(text["num_hidden_layers"]),
            heads=heads,
            of_keys=int(text.get("num_key_value_heads") or heads),
            head=int(text.get("head_dim") or hidden // heads),
            inner=int(text["intermediate_size"]),
            vocabulary=int(text["vocab_size"]),
            context=int(text["max_position_embeddings"]),
            tied=bool(config.get("tie_word_embeddings", True)),
            experts=any("expert" in key for key in text),
            latent=int(text.get("kv_lora_rank") or 0) + int(text.get("qk_rope_head_dim") or 0),
            stored=1 if (config.get("quantization_config") or {}).get("quant_method") == "fp8" else 2,
        )
    except (KeyError, TypeError, ValueError):
        return None


def licence(folder: Path) -> str | None:
    """What a folder's model card, or raystill's own note of origin, names as its licence."""
    card, origin = folder / "README.md", folder / "origin.json"
    if card.is_file() and (found := re.search(r"^license(?:_name)?:\s*(\S+)", card.read_text("utf-8"), re.M)):
        return found[1].lower()
    if origin.is_file():
        return str(json.loads(origin.read_text()).get("licence", "")).lower() or None
    return None


def _cached(model: str) -> Shape | None:
    if models.looks_local(model):
        return None
    from huggingface_hub import try_to_load_from_cache

    try:
        path = try_to_load_from_cache(model, "config.json")
    except ValueError:  # no hub id
        return None
    return parse(json.loads(Path(path).read_text())) if isinstance(path, str) else None

"""Fixtures shared by all tests: a model made on the spot, small enough to train in seconds."""

from pathlib import Path

import pytest
from fixtures_bench import bench  # noqa: F401 - fixtures for all tests
from fixtures_openai import server  # noqa: F401
from fixtures_s3 import s3  # noqa: F401

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
LINES = [
    "Where is my order 10482? I ordered the blue kettle on 3 May.",
    "Hello! Your order 10482 left our warehouse on 4 May and arrives on 6 May.",
    "The quick brown fox jumps over the lazy dog.",
    "What is your return policy? You can send it back within 30 days.",
]


def build_tiny_model(folder: Path, *, hidden: int = 64, layers: int = 2, vocabulary: int = 384) -> Path:
    """A random Llama with a byte-level BPE tokenizer and a chat template, as transformers saves them."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    roles = ["<|system|>", "<|user|>", "<|assistant|>"]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        LINES,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=["<|end|>", "<|pad|>", *roles],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|end|>", pad_token="<|pad|>", model_max_length=512, extra_special_tokens=roles
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,  # vLLM's CPU attention takes heads of 32 and more
        num_key_value_heads=hidden // 64,
        max_position_embeddings=512,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
        dtype="float32",
    )
    model = LlamaForCausalLM(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a 2-layer random Llama (hidden 64, vocabulary at most 384, 512 positions) with a chat template."""
    return build_tiny_model(tmp_path_factory.mktemp("models") / "tiny")

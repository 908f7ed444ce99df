"""A tokenizer's tokens as the bytes that they stand for, so that two tokenizers can be held against each other."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raystill import chat

FILE = "tokens.json"


@dataclass(frozen=True)
class Tokens:
    """Of each id its bytes; None for what stands for no text: special tokens, and ids that nobody uses."""

    text: Sequence[bytes | None]
    stop: int
    """The token that ends an answer."""

    def dump(self) -> bytes:
        """As a JSON file: bytes as characters of the same number."""
        return json.dumps({"stop": self.stop, "text": [t and t.decode("latin-1") for t in self.text]}).encode()

    @classmethod
    def load(cls, data: bytes) -> "Tokens":
        """What `dump` gave."""
        values = json.loads(data)
        return cls([t if t is None else t.encode("latin-1") for t in values["text"]], int(values["stop"]))

    def numbers(self) -> dict[bytes, int]:
        """The id of each text; of several the one that is no byte on its own behalf, which tokenizers number first."""
        return {text: i for i, text in enumerate(self.text) if text}


def of(tokenizer: chat.Tokenizer) -> Tokens:
    """A tokenizer's tokens. None has bytes where its decoder does more than put together what the tokens stand for."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    parts = json.loads(backend.to_str()) if backend else {}
    text: list[bytes | None] = [None] * len(tokenizer)
    kinds = {decoder["type"]: decoder for decoder in _decoders(parts.get("decoder"))}
    if "ByteLevel" in kinds or kinds.keys() & {"Metaspace", "ByteFallback"}:
        for token, i in _vocabulary(parts["model"]):
            text[i] = _of_bytes(token) if "ByteLevel" in kinds else _of_spaces(token)
    for added in parts.get("added_tokens", []):
        text[added["id"]] = None if added["special"] else added["content"].encode()
    return Tokens(text, chat.stop_id(tokenizer))


def _decoders(decoder: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    return [] if not decoder else list(decoder["decoders"]) if decoder["type"] == "Sequence" else [decoder]


def _vocabulary(model: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    vocabulary = model["vocab"]
    if isinstance(vocabulary, Mapping):
        yield from vocabulary.items()
    else:
        yield from ((token, i) for i, (token, _) in enumerate(vocabulary))


VISIBLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
"""Bytes that byte-level tokenizers write as the character of their own number; the other 68 follow from 256 on."""
BYTE = {chr(b): b for b in VISIBLE} | {chr(256 + i): b for i, b in enumerate(sorted({*range(256)} - {*VISIBLE}))}


def _of_bytes(token: str) -> bytes | None:
    return bytes(BYTE[c] for c in token) if all(c in BYTE for c in token) else None


def _of_spaces(token: str) -> bytes:
    """A token in which ▁ stands for a space, or <0x0A> for one byte."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes([int(token[3:5], 16)])
    return token.replace("▁", " ").encode()

"""Bytes, errors and speed of stored soft targets.

    python bench/target_store.py [--model FOLDER] [--data FILE.jsonl]

A model's own targets of the data's answers (columns question, answer), then synthetic ones. Synthetic logits are no
model's: rank-frequency slope 1 over the ids plus Gaussian noise of 2.5 nats, at several temperatures. "Shuffled ids" makes
all ids equally frequent, which no tokenizer does: the most that ids can cost. A part has --rows rows of 100 tokens, or of
5, as class labels have. Bytes of the file count every column (the row's id and its token ids too), footer and checksums.
Bytes and errors do not depend on the machine; tokens per second are of one core.
"""

import argparse
import itertools
import json
import math
import platform
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import fidelity
import machine
import numpy as np
import torch

from raystill import artifacts, chat, recipe
from raystill.records import Ids, Targets
from raystill.targets import Sampled, TopK, pack_sampled, pack_topk, unpack_sampled, unpack_topk
from raystill.teachers import forward

K, DRAWS, ROWS, TOKENS = 50, 12, 256, 100
SMALL, WIDE = 49_152, 151_936


class Completion(NamedTuple):
    """One row's token ids and its exact targets, in both forms."""

    ids_T: list[int]
    topk: TopK
    sampled: Sampled


class Source(NamedTuple):
    """Completions, where they come from and the size of their vocabulary."""

    name: str
    vocabulary: int
    completions: Iterator[Completion]


def synthetic(vocabulary: int, temperature: float, shuffled: bool, rows: int, tokens: int) -> Source:
    """Completions of random logits. Each token sees another stretch of one noise; fresh noise would take minutes."""
    rng = np.random.default_rng(0)
    noise = torch.from_numpy(2.5 * rng.standard_normal(2 * vocabulary).astype(np.float32))
    base = -torch.log(torch.arange(vocabulary) + 10.0)

    def completion() -> Completion:
        starts = rng.integers(0, vocabulary, tokens)
        logits_TV = (noise[torch.from_numpy(starts)[:, None] + torch.arange(vocabulary)] + base) / temperature
        logprobs_TV = logits_TV.log_softmax(-1)
        topk, sampled = forward.top_k(logprobs_TV, K), forward.sampled(logprobs_TV, DRAWS, rng)
        if shuffled:  # 7919 is prime to both vocabularies, so ids stay distinct
            topk = topk._replace(ids_TK=(topk.ids_TK * np.int64(7919) + starts[:, None]) % vocabulary)
            starts_N = np.repeat(starts, np.diff(sampled.offsets_T1))
            sampled = sampled._replace(ids_N=(sampled.ids_N * np.int64(7919) + starts_N) % vocabulary)
        return Completion(rng.integers(0, vocabulary, tokens).tolist(), topk, sampled)

    name = f"synthetic, {tokens} tokens, T = {temperature}" + (", shuffled ids" if shuffled else "")
    return Source(name, vocabulary, (completion() for _ in range(rows)))


def real(folder: str, data: Path, rows: int) -> Source:
    """What a model thinks of the data's own answers, by the forward pass that `score` uses."""
    model = forward.Forward(recipe.Score(), recipe.Teacher(kind="reference"), folder)
    asked = list(itertools.islice(fidelity.rows(data, chat.load_tokenizer(folder), short=math.inf), rows))
    rng = np.random.default_rng(0)

    def completions() -> Iterator[Completion]:
        for batch in fidelity.batches(sorted(asked, key=lambda r: len(r.completion_ids)), fidelity.BATCH_TOKENS):
            for row, pieces in zip(batch, zip(*model.chunks(batch), strict=True), strict=True):
                logprobs_TV = torch.cat(pieces).log_softmax(-1)
                sampled = forward.sampled(logprobs_TV, DRAWS, rng)
                yield Completion(row.completion_ids, forward.top_k(logprobs_TV, K), sampled)

    return Source(f"{Path(folder).name}, {data.parent.name}", model.vocabulary, completions())


def tokens_per_s(work: Callable[[], Any], tokens: int) -> int:
    """The best of three."""
    best = float("inf")
    for _ in range(3):
        started = time.process_time()
        work()
        best = min(best, time.process_time() - started)
    return round(tokens / best)


def file_bytes(values: list[bytes], completions: list[Completion]) -> int:
    """Size of the Parquet part."""
    rng = np.random.default_rng(0)
    rows = [
        Targets(f"{rng.integers(1 << 60):016x}", "teacher", 0, "train", Ids(row.ids_T), value)
        for value, row in zip(values, completions, strict=True)
    ]
    return len(artifacts.encode(Targets, rows))


def errors(given: list[TopK], restored: list[TopK]) -> dict[str, float]:
    """Largest error of a log-probability and KL(exact, restored) over K ids and tail, mean over tokens, in nats."""
    largest, kls = 0.0, []
    for a, b in zip(given, restored, strict=True):
        error = a.logprobs_TK - b.logprobs_TK
        largest = max(largest, float(np.abs(error).max()))
        kls.append((np.exp(a.logprobs_TK) * error).sum(axis=1) + a.tail_T * np.log(a.tail_T / b.tail_T))
    return {"max_error": round(largest, 4), "kl": float(f"{np.concatenate(kls).mean():.2g}")}


def exact(given: list[Sampled], restored: list[Sampled]) -> dict[str, str]:
    """That draws come back as they were. Raises ValueError where they do not."""
    for a, b in zip(given, restored, strict=True):
        if not all(np.array_equal(np.asarray(x), np.asarray(y)) for x, y in zip(a, b, strict=True)):
            raise ValueError("draws differ after packing and unpacking")
    return {"max_error": "exact", "kl": "exact"}


def _each(call: Callable[..., Any], arguments: list[tuple[Any, ...]]) -> None:
    for these in arguments:
        call(*these)


def measure(source: Source) -> list[dict[str, Any]]:
    """Both formats over one source."""
    name, vocabulary = source.name, source.vocabulary
    completions = list(source.completions)
    tokens = sum(len(c.ids_T) for c in completions)
    found = []
    formats: list[
        tuple[str, list[Any], Callable[..., bytes], Callable[[bytes], Any], Callable[..., dict[str, Any]]]
    ] = [
        (f"top-k, K = {K}", [c.topk for c in completions], pack_topk, unpack_topk, errors),
        (f"sampled, n = {DRAWS}", [c.sampled for c in completions], pack_sampled, unpack_sampled, exact),
    ]
    for label, given, pack, unpack, compare in formats:
        values = [pack(*g, vocabulary) for g in given]
        restored = [unpack(v) for v in values]
        row = {
            "source": name, "format": label, "vocabulary": vocabulary, "rows": len(completions),
            "tokens": tokens,
            "file_bytes_per_token": round(file_bytes(values, completions) / tokens, 1),
            "packed_bytes_per_token": round(sum(map(len, values)) / tokens, 1),
            **compare(given, restored),
            "pack_tokens_per_s": tokens_per_s(partial(_each, pack, [(*g, vocabulary) for g in given]), tokens),
            "unpack_tokens_per_s": tokens_per_s(partial(_each, unpack, [(v,) for v in values]), tokens),
        }  # fmt: skip
        print(
            f"{name:<45} {label:<16} {vocabulary:>7} {row['file_bytes_per_token']:>9} {row['packed_bytes_per_token']:>9} "
            f"{row['max_error']:>8} {row['kl']:>8} {row['pack_tokens_per_s']:>10,} {row['unpack_tokens_per_s']:>10,}"
        )
        found.append(row)
    return found


def main() -> None:
    """Print the table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/smollm2-135m-instruct", help="left out where it is not there")
    parser.add_argument("--data", type=Path, default=Path("data/gsm8k/train.jsonl"))
    parser.add_argument("--rows", type=int, default=ROWS, help="rows of a part, as units have")
    parser.add_argument("--tokens", type=int, default=TOKENS)
    options = parser.parse_args()
    print(
        f"{'logits':<45} {'format':<16} {'V':>7} {'file B/t':>9} {'packed':>9} {'max err':>8} {'KL':>8} {'pack t/s':>10} "
        f"{'unpack t/s':>10}"
    )
    sources = []
    if Path(options.model).exists() and options.data.exists():
        sources.append(real(options.model, options.data, options.rows))
    for vocabulary, temperature, shuffled, tokens in (
        (SMALL, 0.5, False, options.tokens), (SMALL, 1.0, False, options.tokens), (SMALL, 2.0, False, options.tokens),
        (SMALL, 1.0, True, options.tokens), (SMALL, 1.0, False, 5), (WIDE, 1.0, False, options.tokens),
    ):  # fmt: skip
        sources.append(synthetic(vocabulary, temperature, shuffled, options.rows, tokens))
    found = [row for source in sources for row in measure(source)]
    print(
        json.dumps(
            {
                "bench": "target_store",
                "python": platform.python_version(),
                "numpy": np.__version__,
                **machine.seen(),
                "rows": found,
            }
        )
    )


if __name__ == "__main__":
    main()

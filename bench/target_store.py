"""Bytes, errors and speed of stored soft targets.

    python bench/target_store.py                        synthetic logits
    python bench/target_store.py --logits real.npz      also real ones: logits [N, V], offsets [rows + 1] optional

Synthetic logits are no model's: rank-frequency slope 1 over the ids plus Gaussian noise of 2.5 nats, at several
temperatures. "Shuffled ids" makes all ids equally frequent, which no tokenizer does: the most that ids can cost. A part
has --rows rows of 100 tokens, or of 5, as class labels have. Bytes of the file count every column (the row's id and its
token ids too), footer and checksums. Bytes and errors do not depend on the machine; tokens per second are of one core.
"""

import argparse
import itertools
import json
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from raystill import artifacts
from raystill.records import Ids, Targets
from raystill.targets import Sampled, TopK, pack_sampled, pack_topk, unpack_sampled, unpack_topk

K, DRAWS = 50, 12
Source = tuple[str, int, Iterator[tuple[TopK, Sampled]]]
"""What it is, its vocabulary, and the exact targets of each completion."""


def exact(logits_TV: np.ndarray, rng: np.random.Generator) -> tuple[TopK, Sampled]:
    """Top-k with its tail, and draws, of a whole softmax in float64."""
    shifted = logits_TV - logits_TV.max(axis=1, keepdims=True)
    p = np.exp(shifted.astype(np.float64))
    cumulated = np.cumsum(p, axis=1)
    ids = np.argpartition(-logits_TV, K - 1, axis=1)
    kept = np.take_along_axis(p, ids[:, :K], axis=1) / cumulated[:, -1:]
    order = np.argsort(-kept, axis=1, kind="stable")
    tail = np.take_along_axis(p, ids[:, K:], axis=1).sum(axis=1) / cumulated[:, -1]
    drawn = [
        np.unique(np.searchsorted(c, rng.random(DRAWS) * c[-1], side="right"), return_counts=True) for c in cumulated
    ]
    offsets = np.cumsum([0, *(len(ids) for ids, _ in drawn)])
    sampled = Sampled(np.concatenate([i for i, _ in drawn]), np.concatenate([c for _, c in drawn]), offsets)
    return TopK(np.take_along_axis(ids[:, :K], order, 1), np.log(np.take_along_axis(kept, order, 1)), tail), sampled


def synthetic(vocabulary: int, temperature: float, shuffled: bool, rows: int, tokens: int) -> Iterator[Any]:
    """Completions of random logits. Each token sees another stretch of one noise; fresh noise would take minutes."""
    rng = np.random.default_rng(0)
    noise = 2.5 * rng.standard_normal(2 * vocabulary).astype(np.float32)
    base = -np.log(np.arange(vocabulary) + 10.0).astype(np.float32)
    for _ in range(rows):
        starts = rng.integers(0, vocabulary, tokens)
        topk, sampled = exact((noise[starts[:, None] + np.arange(vocabulary)] + base) / temperature, rng)
        if shuffled:  # 7919 is prime to both vocabularies, so ids stay distinct
            topk = topk._replace(ids_TK=(topk.ids_TK * 7919 + starts[:, None]) % vocabulary)
            starts_N = np.repeat(starts, np.diff(sampled.offsets_T1))
            sampled = sampled._replace(ids_N=(sampled.ids_N * 7919 + starts_N) % vocabulary)
        yield topk, sampled


def real(path: Path) -> Source:
    """Completions from a file of real logits."""
    stored = np.load(path)
    logits = stored["logits"]
    offsets = stored["offsets"] if "offsets" in stored else np.arange(0, len(logits) + 1, 64)
    rng = np.random.default_rng(0)
    rows = (exact(logits[a:b].astype(np.float32), rng) for a, b in itertools.pairwise(offsets))
    return f"real: {path.name}", logits.shape[1], rows


def tokens_per_s(work: Callable[[], Any], tokens: int) -> int:
    """The best of three."""
    best = float("inf")
    for _ in range(3):
        started = time.process_time()
        work()
        best = min(best, time.process_time() - started)
    return round(tokens / best)


def file_bytes(values: list[bytes], sizes: list[int], vocabulary: int) -> int:
    """Size of the Parquet part. Token ids are random: dearer than real ones."""
    rng = np.random.default_rng(0)
    rows = [
        Targets(f"{rng.integers(1 << 60):016x}", "vllm", 0, "train", Ids(rng.integers(0, vocabulary, t).tolist()), v)
        for v, t in zip(values, sizes, strict=True)
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


def measure(source: Source) -> list[dict[str, Any]]:
    """Both formats over one source."""
    name, vocabulary, completions = source
    topk, sampled = (list(part) for part in zip(*completions, strict=True))
    sizes = [len(t.tail_T) for t in topk]
    tokens = sum(sizes)
    found = []
    for label, given, pack, unpack in (
        (f"top-k, K = {K}", topk, pack_topk, unpack_topk),
        (f"sampled, n = {DRAWS}", sampled, pack_sampled, unpack_sampled),
    ):
        values = [pack(*g, vocabulary) for g in given]  # type: ignore[operator]
        restored = [unpack(v) for v in values]
        row = {
            "source": name, "format": label, "vocabulary": vocabulary, "rows": len(sizes), "tokens": tokens,
            "file_bytes_per_token": round(file_bytes(values, sizes, vocabulary) / tokens, 1),
            "packed_bytes_per_token": round(sum(map(len, values)) / tokens, 1),
            **(errors(given, restored) if given is topk else {"max_error": 0.0, "kl": 0.0}),
            "pack_tokens_per_s": tokens_per_s(lambda p=pack, g=given: [p(*x, vocabulary) for x in g], tokens),
            "unpack_tokens_per_s": tokens_per_s(lambda u=unpack, v=values: [u(x) for x in v], tokens),
        }  # fmt: skip
        print(
            f"{name:<45} {label:<16} {vocabulary:>7} {row['file_bytes_per_token']:>9} {row['packed_bytes_per_token']:>9} "
            f"{row['max_error']:>8} {row['kl']:>8.1e} {row['pack_tokens_per_s']:>10,} {row['unpack_tokens_per_s']:>10,}"
        )
        found.append(row)
    return found


def main() -> None:
    """Print the table, then one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logits", type=Path, help=".npz of real logits")
    parser.add_argument(
        "--rows", type=int, default=64, help="a unit has 256: under 1 byte per token less, and ten minutes"
    )
    parser.add_argument("--tokens", type=int, default=100)
    options = parser.parse_args()
    print(
        f"{'logits':<45} {'format':<16} {'V':>7} {'file B/t':>9} {'packed':>9} {'max err':>8} {'KL':>8} {'pack t/s':>10} "
        f"{'unpack t/s':>10}"
    )
    sources = [real(options.logits)] if options.logits else []
    for vocabulary in (49_152, 151_936):
        for temperature, shuffled, tokens in (
            (0.5, False, options.tokens), (1.0, False, options.tokens), (2.0, False, options.tokens),
            (1.0, True, options.tokens), (1.0, False, 5),
        ):  # fmt: skip
            kind = f"synthetic, {tokens} tokens, T = {temperature}" + (", shuffled ids" if shuffled else "")
            sources.append((kind, vocabulary, synthetic(vocabulary, temperature, shuffled, options.rows, tokens)))
    found = [row for source in sources for row in measure(source)]
    print(
        json.dumps(
            {"bench": "target_store", "python": platform.python_version(), "numpy": np.__version__, "rows": found}
        )
    )


if __name__ == "__main__":
    main()

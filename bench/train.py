"""Is training through raystill as fast as bare DeepSpeed, and how much faster than a trainer that pads?

    python bench/train.py [--rounds 3] [--steps 12] [--arms ...]

Arms, each in a process of its own, interleaved, the order turned every round, all on the same rows of one model: SmolLM2's
width and vocabulary (49,152) in 6 layers, random weights, fp32.

    raystill        its train stage: Ray Train, one worker, packed rows, text
    bare            a plain DeepSpeed loop over the very same micro-batches, made before the clock starts: the ceiling
    bare-ray        the same beside a Ray that has nothing to do, as on any node of a cluster
    raystill-2      two workers of one thread each
    torchrun-2      the plain loop under torchrun with two workers
    trl-sft         TRL's SFTTrainer, rows padded to the longest of a batch, as it does by default; like all of TRL's in the
                    first round only, since they take a third of the time
    trl-sft-packed  the same with packing
    raystill-kd     forward KL from stored top-50 targets with their tail
    trl-gkd         TRL's GKDTrainer on the given text, forward KL; its teacher, of the student's own size, runs beside it:
                    a real one is larger
    kd-sparse       the head and the loss alone at vocabulary 128,256: top-50 targets in chunks
    kd-dense        the same from all logits at once

A rate is tokens by seconds from the end of the fifth step to the end of the last one: start and export are outside it. Each
row's last token is only predicted and counts for nobody; nor does padding. A ratio is taken within its round, and its
median over rounds counts. Run it on an idle machine.

Expected before measuring (two cores, no GPU): raystill / bare 0.98-1.0 with one worker or two, since what raystill adds to a
step of seconds is one small all-reduce per micro-batch and a message that nobody waits for (seen since: 0.92 and less, and
Ray's own idle processes take 8% of a core, so bare-ray was added, expected where raystill is); / trl-sft 1.3-1.5, since rows
of unequal length leave a third of a padded batch empty and logits of prompts are never made; / trl-gkd 2 and more, for the
teacher's pass and two dense softmaxes; a sparse KD step 1.03 of a text step; memory of KD a tenth of dense.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import alone
import machine

HERE = Path(__file__).parent
ARMS = (
    "raystill", "bare", "bare-ray", "raystill-2", "torchrun-2", "trl-sft", "trl-sft-packed", "raystill-kd", "trl-gkd",
    "kd-sparse", "kd-dense",
)  # fmt: skip
ONCE = ("trl-sft", "trl-sft-packed", "trl-gkd")
RATIOS = {
    "bare_ratio": ("raystill", "bare"),
    "bare_beside_ray_ratio": ("raystill", "bare-ray"),
    "torchrun_ratio": ("raystill-2", "torchrun-2"),
    "trl_sft_ratio": ("raystill", "trl-sft"),
    "trl_sft_packed_ratio": ("raystill", "trl-sft-packed"),
    "trl_distill_ratio": ("raystill-kd", "trl-gkd"),
    "sparse_kd_step_ratio": ("raystill", "raystill-kd"),
}
"""Of rates: how many times the second arm's the first one's is. The last is also a KD step's time by a text step's."""
TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone")
BATCH, THREADS, K, WARM_UP = 16, 2, 50, 5
VOCABULARY = 49_152


@dataclass(frozen=True)
class Run:
    """One arm in one round: tokens per second of a trainer, or seconds and bytes of a memory arm's pass."""

    arm: str
    round: int
    rate: float | None = None
    seconds: float | None = None
    bytes: int | None = None
    whole_s: float = 0.0


def rate(at: Sequence[float], tokens: Sequence[int]) -> float:
    """Tokens per second after the first WARM_UP steps. Raises ValueError when no step lies behind them."""
    if len(at) <= WARM_UP:
        raise ValueError(f"{len(at)} steps, of which the first {WARM_UP} are warm-up")
    return (tokens[-1] - tokens[WARM_UP - 1]) / (at[-1] - at[WARM_UP - 1])


def ratios(runs: Sequence[Run], value: str, arm: str, base: str) -> list[float]:
    """`arm` by `base`, once per round that has both."""
    by = {(r.arm, r.round): getattr(r, value) for r in runs}
    rounds = sorted({r.round for r in runs})
    return [by[arm, n] / by[base, n] for n in rounds if (arm, n) in by and (base, n) in by]


def summary(runs: Sequence[Run]) -> dict[str, float | None]:
    """The ratios of the JSON line, medians over rounds; None where an arm did not run."""
    found = {name: ratios(runs, "rate", *pair) for name, pair in RATIOS.items()}
    found["kd_memory_ratio"] = ratios(runs, "bytes", "kd-sparse", "kd-dense")
    found["kd_time_ratio"] = ratios(runs, "seconds", "kd-sparse", "kd-dense")
    return {name: round(statistics.median(values), 3) if values else None for name, values in found.items()}


def table(runs: Sequence[Run]) -> Iterator[str]:
    """Lines of the table: each arm's median and range, then each ratio's."""
    yield f"{'arm':<22} {'rounds':>6} {'median':>14} {'range':>18}"
    for arm in dict.fromkeys(r.arm for r in runs):
        of = [r for r in runs if r.arm == arm]
        for value, unit, scale in (("rate", "tokens/s", 1), ("seconds", "s", 1), ("bytes", "MB", 1e6)):
            if seen := [getattr(r, value) / scale for r in of if getattr(r, value) is not None]:
                yield f"{arm:<22} {len(of):>6} {statistics.median(seen):>8.1f} {unit:<8} {min(seen):>8.1f}-{max(seen):.1f}"
    yield ""
    for name, pair in RATIOS.items():
        if seen := ratios(runs, "rate", *pair):
            yield f"{name:<22} {len(seen):>6} {statistics.median(seen):>8.3f} {min(seen):>17.3f}-{max(seen):.3f}"


def prepare(work: Path, steps: int) -> dict[str, Any]:
    """Model, rows and targets, the same for all arms: customers' messages and answers, several to a row."""
    import numpy as np
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from raystill import artifacts, chat, targets
    from raystill.artifacts import Manifest, Table
    from raystill.records import Example, Ids, Message, Targets
    from raystill.training import batches, soft

    demo = work / "demo"
    subprocess.run([sys.executable, HERE.parent / "jobs" / "demo_data.py", demo], check=True, capture_output=True)
    shape = {
        "vocab_size": VOCABULARY, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 6, "head_dim": 64,
        "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 2048,
    }  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(demo / "model", **shape)).save_pretrained(
        work / "model"
    )
    AutoTokenizer.from_pretrained(demo / "model").save_pretrained(work / "model")
    tokenizer = chat.load_tokenizer(str(work / "model"))

    rng, random_np = random.Random(0), np.random.default_rng(0)
    said = [json.loads(line) for line in (demo / "train.jsonl").read_text().splitlines()]
    examples, encoded, scored = [], [], []
    for i in range(steps * BATCH):
        asked = " ".join(row["prompt"] for row in rng.sample(said, rng.randint(1, 6)))
        answer = " ".join(row["reference"] for row in rng.sample(said, rng.randint(1, 4)))
        messages = [Message("user", asked), Message("assistant", answer)]
        examples.append(Example(f"row-{i}", "teacher", 0, "train", messages, None, [1], Ids([])))
        encoded.append(chat.encode(tokenizer, messages, [1], None, None))
        ids = [x for x, learnt in zip(encoded[-1].input_ids, encoded[-1].loss_mask, strict=True) if learnt]
        logits_TK = -np.sort(-random_np.normal(0, 3, (len(ids), K + 1)), axis=1)
        logprobs_TK = logits_TK - np.log(np.exp(logits_TK).sum(1, keepdims=True))
        kept_TK = np.stack([random_np.choice(VOCABULARY, K, replace=False) for _ in ids])
        packed = targets.pack_topk(kept_TK, logprobs_TK[:, :K], np.exp(logprobs_TK[:, K]), VOCABULARY)
        scored.append(Targets(f"row-{i}", "teacher", 0, "train", Ids(ids), packed))

    def committed(name: str, kind: type[Any], rows: list[Any], **facts: Any) -> str:
        url = str(work / name)
        part = artifacts.write_part(url, "train", kind, rows)
        inputs = {"examples": "examples"} if kind is Targets else {}
        manifest = Manifest(name, kind.SCHEMA, name, 1, name, {}, inputs, [part], facts=facts)
        if kind is Targets:
            manifest.facts["parts"] = {first.path: part.path for first in Manifest.load(str(work / "examples")).files}
        artifacts.commit(Table, url, manifest)
        return url

    with (work / "rows.jsonl").open("w") as out:
        for e in encoded:
            labels = [x if learnt else -100 for x, learnt in zip(e.input_ids, e.loss_mask, strict=True)]
            out.write(json.dumps({"input_ids": list(e.input_ids), "labels": labels}) + "\n")
    batches.store(str(work / "tokens"), (("train", e, 1.0, soft.Span()) for e in encoded))
    return {
        "model": str(work / "model"),
        "examples": committed("examples", Example, examples),
        "targets": committed(
            "targets", Targets, scored, support="top_k", temperature=1.0, tokenizer=chat.fingerprint(tokenizer)
        ),
        "tokens": str(work / "tokens"),
        "rows": str(work / "rows.jsonl"),
        "batch": BATCH,
        "threads": THREADS,
    }


def measured(arm: str, number: int, job: dict[str, Any]) -> Run:
    """One run of one arm."""
    began = time.monotonic()
    made = alone.result("train_arms.py", arm, job, 600, TORCHRUN if arm == "torchrun-2" else ())
    whole_s = round(time.monotonic() - began, 1)
    if "bytes" in made:
        return Run(arm, number, seconds=made["seconds"], bytes=made["bytes"], whole_s=whole_s)
    return Run(arm, number, rate=rate(made["at"], made["tokens"]), whole_s=whole_s)


def measure(arms: Sequence[str], rounds: int, minutes: float, job: dict[str, Any]) -> list[Run]:
    """All runs, the order turned every round; one that fails, or that the time no longer allows, is told and left out."""
    began = time.monotonic()
    runs: list[Run] = []
    for number in range(rounds):
        turn = number * 3 % len(arms)
        for arm in [*arms[turn:], *arms[:turn]]:
            if number and arm in ONCE:
                continue
            needs_s = max((r.whole_s for r in runs if r.arm == arm), default=90)
            if time.monotonic() - began + needs_s > minutes * 60:
                print(f"round {number + 1} {arm}: left out, {minutes:g} minutes are full", flush=True)
                continue
            try:
                run = measured(arm, number, job)
            except (RuntimeError, ValueError) as e:
                print(f"round {number + 1} {e}", flush=True)
                continue
            runs.append(run)
            said = f"{run.rate:.0f} tokens/s" if run.rate else f"{run.seconds:.1f} s, {(run.bytes or 0) / 1e6:.0f} MB"
            print(f"round {number + 1} {arm}: {said}, {run.whole_s:.0f} s in all", flush=True)
    return runs


def main() -> int:
    """Measure, print the table and the JSON line; 1 when raystill or bare has no figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--minutes", type=float, default=33, help="no run begins that would end after these")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="raystill-bench-") as scratch:
        runs = measure(options.arms, options.rounds, options.minutes, prepare(Path(scratch), options.steps))
    print("\n".join(["", *table(runs), ""]), flush=True)
    made = {
        "bench": "train",
        **summary(runs),
        "rounds": options.rounds,
        "steps": options.steps,
        "load_before": round(load, 1),
        **machine.seen(),
        "runs": [asdict(r) for r in runs],
    }
    print(json.dumps(made))
    return 0 if made["bare_ratio"] is not None else 1


if __name__ == "__main__":
    sys.exit(main())

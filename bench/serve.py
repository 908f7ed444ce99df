"""What does our endpoint cost beside the bare server, and our evaluate beside a bare client?

    python bench/serve.py [--rounds 3] [--smollm2 FOLDER] [--arms ...]

    raystill   the endpoint as `raystill serve` starts it: Ray Serve LLM, our ingress, our guard
    vllm       `vllm serve` with the same engine arguments: the ceiling
    evaluate   `evaluate` on our endpoint / a loop of plain requests that keeps nothing, in turns
    gateway    our ingress / Ray Serve LLM's own, both over engines that answer at once, each request in turns; then the
               memory of Ray Serve's processes while ours answers 10,000

The first two are processes of their own, one at a time, the order turned every round: 4 and then 16 users, each of whom
asks again when answered, every answer of the same length (ignore_eos), streamed. A ratio is taken within its round, its
median over rounds counts, and of 4 and 16 users the worse. Run it on an idle machine.

Expected before measuring (two cores, no GPU): throughput 0.93-0.97 on SmolLM2, for Ray's processes take 4% of these cores
when idle and each token passes two of them more; the few-million-parameter model far below, since there a token takes a
millisecond; TTFT 1.05-1.15; a gateway's overhead of 1 ms, for the guard parses each body once more; evaluate 0.97-1.0;
memory flat after the first 2,000.
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
SERVERS = ("raystill", "vllm")
ARMS = (*SERVERS, "evaluate", "gateway")
USERS = (4, 16)
REQUESTS = {"tiny": 256, "smollm2": 64, "evaluate-tiny": 512, "evaluate-smollm2": 128, "gateway": 1500}
LIMIT_S = 400
SETTLED = 2_000
"""Requests after which memory is expected not to grow."""


@dataclass(frozen=True)
class Run:
    """One server under one load in one round."""

    arm: str
    model: str
    round: int
    users: int
    tokens_per_s: float
    ttft_ms: float
    token_ms: float


def ratios(runs: Sequence[Run], model: str, users: int, value: str) -> list[float]:
    """raystill's by vllm's, once per round that has both."""
    by = {(r.arm, r.round): getattr(r, value) for r in runs if (r.model, r.users) == (model, users)}
    return [
        by["raystill", n] / by["vllm", n]
        for n in sorted({n for _, n in by})
        if {("raystill", n), ("vllm", n)} <= by.keys()
    ]


def worst(runs: Sequence[Run], model: str, value: str, least: bool) -> float | None:
    """The median over rounds, of 4 and 16 users the worse: the smallest or the largest; None when no round is whole."""
    found = [statistics.median(seen) for users in USERS if (seen := ratios(runs, model, users, value))]
    return round((min if least else max)(found), 3) if found else None


def table(runs: Sequence[Run]) -> Iterator[str]:
    """Lines: each server's medians under each load, then the ratios of all rounds."""
    yield f"{'model':<9} {'users':>5} {'server':<10} {'tokens/s':>9} {'TTFT ms':>9} {'ms/token':>9}"
    keys = sorted({(r.model, r.users, r.arm) for r in runs})
    for model, users, arm in keys:
        of = [r for r in runs if (r.model, r.users, r.arm) == (model, users, arm)]
        cells = (statistics.median(getattr(r, v) for r in of) for v in ("tokens_per_s", "ttft_ms", "token_ms"))
        yield f"{model:<9} {users:>5} {arm:<10} " + " ".join(f"{c:>9.1f}" for c in cells)
    for model, users in sorted({k[:2] for k in keys}):
        for value in ("tokens_per_s", "ttft_ms", "token_ms"):
            seen = ratios(runs, model, users, value)
            yield f"{model:<9} {users:>5} raystill / vllm, {value:<13} " + " ".join(f"{r:.3f}" for r in seen)


def overhead_ms(taken: dict[str, list[float]]) -> dict[str, float]:
    """Median and 95th percentile of ours less the reference's."""
    p50 = statistics.median(taken["ours"]) - statistics.median(taken["own"])
    p95 = statistics.quantiles(taken["ours"], n=20)[-1] - statistics.quantiles(taken["own"], n=20)[-1]
    return {"gateway_overhead_ms_p50": round(p50, 2), "gateway_overhead_ms_p95": round(p95, 2)}


def growth_mb(memory: Sequence[tuple[int, int]]) -> float:
    """From SETTLED requests to the last, in MB."""
    settled = next(size for answered, size in memory if answered >= SETTLED)
    return round((memory[-1][1] - settled) / 1e6, 1)


def prepare(work: Path, smollm2: str) -> dict[str, dict[str, Any]]:
    """A few-million-parameter Llama of the demo's shape, and prompts for all."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    demo = work / "demo"
    subprocess.run([sys.executable, HERE.parent / "jobs" / "demo_data.py", demo], check=True, capture_output=True)
    torch.manual_seed(0)
    shape = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4,
             "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 2048}  # fmt: skip
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(demo / "model", **shape)).save_pretrained(work / "tiny")
    AutoTokenizer.from_pretrained(demo / "model").save_pretrained(work / "tiny")
    said = [json.loads(line)["prompt"] for line in (demo / "train.jsonl").read_text().splitlines()]
    random.Random(0).shuffle(said)
    return {
        name: {"model": folder, "prompts": said[:2000]}
        for name, folder in (("tiny", str(work / "tiny")), ("smollm2", smollm2))
        if folder
    }


def main() -> int:
    """Measure, print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--smollm2", default="models/smollm2-135m-instruct", help="folder, '' leaves it out")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    runs: list[Run] = []
    made: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="raystill-bench-") as scratch:
        jobs = prepare(Path(scratch), options.smollm2)

        def result(arm: str, model: str, requests: int) -> Any:
            asked = {**jobs[model], "users": USERS, "requests": requests, "rounds": options.rounds}
            began = time.monotonic()
            try:
                found = alone.result("serve_arms.py", arm, asked, LIMIT_S)
            except RuntimeError as e:
                print(e, flush=True)
                return None
            print(f"{arm} {model}: {time.monotonic() - began:.0f} s", flush=True)
            return found

        for number in range(options.rounds):
            for model in jobs:
                for arm in sorted(set(SERVERS) & set(options.arms), reverse=bool(number % 2)):
                    loads = result(arm, model, REQUESTS[model]) or []
                    runs += [Run(arm, model, number + 1, **found) for found in loads]
        print("\n".join(table(runs)), flush=True)
        for model in jobs if "evaluate" in options.arms else ():
            if rates := result("evaluate", model, REQUESTS[f"evaluate-{model}"]):
                by_round = [a / b for a, b in zip(rates["evaluate"], rates["bare"], strict=True)]
                made[f"evaluate_rows_per_s_ratio_{model}"] = round(statistics.median(by_round), 3)
                print(f"evaluate / bare, {model}: {' '.join(f'{r:.3f}' for r in by_round)}; rows/s {rates}", flush=True)
        if "gateway" in options.arms and (seen := result("gateway", "tiny", REQUESTS["gateway"])):
            made |= overhead_ms(seen["ms"]) | {"memory_growth_mb": growth_mb(seen["memory"]), "memory": seen["memory"]}
            for name, taken in seen["ms"].items():
                print(f"gateway, {name}: p50 {statistics.median(taken):.2f} ms over {len(taken)} requests", flush=True)
            print(
                f"Ray Serve's memory by requests answered: {[(n, round(b / 1e6)) for n, b in seen['memory']]} MB",
                flush=True,
            )
    key = "smollm2" if "smollm2" in jobs else "tiny"
    line = {
        "bench": "serve",
        "throughput_ratio": worst(runs, key, "tokens_per_s", least=True),
        "ttft_p50_ratio": worst(runs, key, "ttft_ms", least=False),
        "throughput_ratio_tiny": worst(runs, "tiny", "tokens_per_s", least=True),
        "evaluate_rows_per_s_ratio": made.get(f"evaluate_rows_per_s_ratio_{key}"),
        **made,
        "rounds": options.rounds,
        "load_before": round(load, 1),
        **machine.seen(),
        "runs": [asdict(r) for r in runs],
    }
    print(json.dumps(line))
    return 0


if __name__ == "__main__":
    sys.exit(main())

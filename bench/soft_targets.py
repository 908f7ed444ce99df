"""Soft targets: is scoring through raystill as fast as the bare engine, and what do targets cost and keep?

    python bench/soft_targets.py [--smollm2 FOLDER] [--data FILE.jsonl] [--seconds 30] [--rounds 2]

`bench/generate.py` runs this too. Two arms, interleaved, each in a process of its own, over the same rows and through the
same vLLM engine with the same arguments: raystill's score stage, which packs and writes top-50 targets in units, and the
engine alone, whose log-probabilities are dropped. Rates are answer tokens per second from the first unit that is whole to
the last but one; a ratio is taken within its round and its median counts. Bytes are of a part of 256 rows with a vocabulary
of 49,152 (`target_store.py`), and cosines of FIDELITY_TOKENS tokens only (`fidelity.py` alone takes 64k).

Expected before measuring: score / bare 0.9-0.97 on SmolLM2. Arrays and packing take some microseconds of a token's
thousand or two, so what is lost goes to Ray's own processes.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import fidelity
import generate
import machine
import target_store

ARMS = ("score", "bare-score")
TOKENS = (64, 192)
UNIT_ROWS = 32
PILOT_UNITS = 6
FIDELITY_TOKENS = 2048
LIMIT_S = 400


def score_runs(model: str, demo: Path, seconds: float, rounds: int, work: Path) -> list[generate.Run]:
    """The runs of both arms; the first with the engine alone only says how many rows fill the time.

    Raises RuntimeError when an arm fails.
    """
    rows = work / "score.jsonl"
    job = {"model": model, "rows": str(rows), "unit_rows": UNIT_ROWS, "max_num_seqs": generate.MAX_NUM_SEQS}
    texts = generate.prompts(demo)
    generate.write_rows(rows, texts, PILOT_UNITS * UNIT_ROWS, TOKENS)
    pilot = generate.run("bare-score", "score", -1, job, LIMIT_S, ramp=1, queue=1)
    units = max(PILOT_UNITS, round(seconds * pilot.answers / pilot.window_s) + 2)
    generate.write_rows(rows, texts, units * UNIT_ROWS, TOKENS)
    runs = []
    for number in range(rounds):
        for arm in generate.turned(ARMS, number):
            runs.append(generate.run(arm, "score", number, job, LIMIT_S, ramp=1, queue=1))
            print(f"round {number + 1} {arm}: {runs[-1].rate:.0f} tokens/s over {runs[-1].window_s:.0f} s", flush=True)
    return runs


def figures(
    smollm2: str | None, tiny: str, demo: Path, data: Path, seconds: float = 30, rounds: int = 2
) -> dict[str, Any]:
    """Keys of the JSON line; the cosines need SmolLM2 and the data, and are None without."""
    runs: list[generate.Run] = []
    with tempfile.TemporaryDirectory(prefix="raystill-bench-") as scratch:
        try:
            runs = score_runs(smollm2 or tiny, demo, seconds, rounds, Path(scratch))
        except (RuntimeError, ValueError) as e:
            print(e, flush=True)  # the other figures are worth having
    ratios = generate.paired(runs, "score", *ARMS)
    small = target_store.synthetic(target_store.SMALL, 1.0, False, target_store.ROWS, target_store.TOKENS)
    topk, sampled = target_store.measure(small)
    kept: dict[str, Any] = {}
    if smollm2 and data.exists():
        try:
            kept = fidelity.measure(smollm2, fidelity.LAYERS, data, FIDELITY_TOKENS, FIDELITY_TOKENS)
            print("\n".join(fidelity.lines(kept)), flush=True)
        except ValueError as e:
            print(f"fidelity: left out, {e}", flush=True)
    else:
        print(f"fidelity: left out, it needs SmolLM2 and {data}", flush=True)
    return {
        "score_ratio": round(statistics.median(ratios), 3) if ratios else None,
        "score_ratios": [round(r, 3) for r in ratios],
        "score_tokens_per_s": [round(r.rate) for r in runs if r.arm == "score"],
        "target_bytes_topk50": topk["file_bytes_per_token"],
        "target_bytes_sampled": sampled["file_bytes_per_token"],
        "gradient_cosine_topk50": kept.get("gradient_cosine_topk50"),
        "gradient_cosine_sampled": kept.get("gradient_cosine_sampled"),
        "gradient_tokens": kept.get("tokens"),
    }


def main() -> None:
    """The figures of soft targets alone."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--smollm2", default="models/smollm2-135m-instruct", help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--data", type=Path, default=Path("data/gsm8k/train.jsonl"))
    parser.add_argument("--seconds", type=float, default=30, help="steady window of each run")
    parser.add_argument("--rounds", type=int, default=2)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raystill-bench-") as scratch:
        demo, tiny = Path(scratch) / "demo", Path(scratch) / "tiny"
        script = generate.HERE.parent / "jobs" / "demo_data.py"
        subprocess.run([sys.executable, script, demo], check=True, capture_output=True)
        generate.make_tiny(demo, tiny)
        model = str(Path(asked.smollm2).resolve()) if Path(asked.smollm2, "config.json").exists() else None
        found = figures(model, str(tiny), demo, asked.data, asked.seconds, asked.rounds)
    print(json.dumps({"bench": "soft_targets", **found, **machine.seen()}))


if __name__ == "__main__":
    main()

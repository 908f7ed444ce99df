"""A training that is killed again and again against one that is not: the same losses, drawn over one another.

    python jobs/demo_data.py && python bench/kill_resume.py        writes docs/kill-resume.svg

Both learn the demo's own answers with two workers and ZeRO 1, a checkpoint every 10 steps. One is left alone. Of the other a
worker is killed (SIGKILL) when the driver hears of steps 17, 43 and 68; at 90 it is stopped by Ctrl-C, and one worker goes on
with ZeRO 2. Expected: equal losses at every step but for the order of sums, at most 1e-5 of the loss.
"""

import argparse
import json
import os
import signal
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from machine import seen

from raystill import pipeline
from raystill.errors import Interrupted

KILLED_AFTER, STOPPED_AFTER, BOUND = (17, 43, 68), 90, 1e-5
RECIPE = """
name: {name}
task: conversation
root: {root}
data: {{train: data/demo/train.jsonl, prompt: prompt, reference: reference, id: id, limit: 1000, split: {{test: 0}}}}
teacher: {{kind: reference}}
student:
  model: data/demo/model
  init: {{random: {{hidden_size: 64, intermediate_size: 128, num_attention_heads: 2, num_key_value_heads: 2, head_dim: 32}}}}
train: {{learning_rate: 2.0e-3, batch_size: 16, epochs: 2, max_length: 128, checkpoint_every: 10}}
compute: {{train: {{workers: {workers}, zero: {zero}, cpus: 1, micro_tokens: 512, resume_failures: 3}}}}
"""


@dataclass
class Watch:
    """What a run tells, and what is done to it after some steps."""

    kill_after: list[int] = field(default_factory=list)
    stop_after: int | None = None
    stopping: threading.Event = field(default_factory=threading.Event)
    done: int = 0

    def start(self, stage: str, total: int | None, unit: str) -> None:
        """A stage begins."""
        self.done = 0

    def advance(self, done: int = 1, **scalars: float) -> None:
        """So many more steps are done."""
        self.done += done
        if "loss" not in scalars:
            return
        if self.kill_after and self.done >= self.kill_after[0]:
            self.kill_after.pop(0)
            os.kill(workers()[0], signal.SIGKILL)
        if self.stop_after is not None and self.done >= self.stop_after:
            self.stopping.set()

    def say(self, text: str) -> None:
        """A line."""
        print(f"  {text}", flush=True)


def workers() -> list[int]:
    """Process ids of the train workers that this process started."""
    below = psutil.Process().children(recursive=True)
    return [p.pid for p in below if "RayTrainWorker" in " ".join(p.cmdline())]


def train(folder: Path, name: str, watch: Watch, workers: int, zero: int) -> list[dict[str, Any]]:
    """The curve of a run under this root, begun or gone on with."""
    recipe = folder / f"{name}.yaml"
    recipe.write_text(RECIPE.format(name=name, root=folder / name, workers=workers, zero=zero))
    for stage in ("prepare", "generate", "curate", "train"):
        pipeline.run(str(recipe), watch, watch.stopping, only=stage)
    (curve,) = (folder / name / "train").glob("*/model-*/curve.jsonl")
    return [json.loads(line) for line in curve.read_text().splitlines()]


def svg(straight: list[float], killed: list[float], difference: float) -> str:
    """The losses of one run as a line, of the other as dots, and where it was killed or stopped."""
    wide, high, top = 760, 300, max(straight)
    x = [50 + (wide - 70) * i / (len(straight) - 1) for i in range(len(straight))]
    line, dots = ([20 + (high - 60) * (1 - v / top) for v in values] for values in (straight, killed))
    at = {**dict.fromkeys(KILLED_AFTER, "killed"), STOPPED_AFTER: "one worker, ZeRO 2"}
    marks = "".join(
        f'<path d="M{x[s - 1]:.1f} 20V{high - 40}" stroke="#b3423a" stroke-dasharray="3 3"/>'
        f'<text x="{x[s - 1] + 4:.1f}" y="32" fill="#b3423a">{word}</text>'
        for s, word in at.items()
    )
    ticks = "".join(f'<text x="{x[s - 1]:.1f}" y="{high - 24}">{s}</text>' for s in range(20, len(x) + 1, 20))
    path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, line, strict=True))
    points = "".join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="1.6"/>' for a, b in zip(x, dots, strict=True))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" font-family="sans-serif" font-size="11">'
        f'<rect width="{wide}" height="{high}" fill="#fff"/>'
        f'<path d="M50 20V{high - 40}H{wide - 20}" fill="none" stroke="#888"/>'
        f'<text x="14" y="24">{top:.1f}</text><text x="24" y="{high - 36}">0</text>{ticks}{marks}'
        f'<path d="{path}" fill="none" stroke="#9fc5e8" stroke-width="5"/><g fill="#1b3a57">{points}</g>'
        f'<text x="50" y="{high - 8}">training loss by step: left alone (line), killed and resumed (dots); they differ by at '
        f"most {difference:.0e} of the loss</text></svg>\n"
    )


def main() -> None:
    """Both runs; the plot, and all that was found as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/kill-resume.svg"))
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory(prefix="kill-resume-") as name:
        folder = Path(name)
        straight = [row["loss"] for row in train(folder, "straight", Watch(), 2, 1)]
        try:
            train(folder, "killed", Watch(list(KILLED_AFTER), STOPPED_AFTER), 2, 1)
        except Interrupted as e:
            print(f"  {e}")
        killed = [row["loss"] for row in train(folder, "killed", Watch(), 1, 2)]
    difference = max(abs(a - b) / a for a, b in zip(straight, killed, strict=True))
    out.write_text(svg(straight, killed, difference))
    found = {"steps": len(straight), "killed_after": KILLED_AFTER, "stopped_after": STOPPED_AFTER}
    print(json.dumps(seen() | found | {"largest_difference": difference, "bound": BOUND, "holds": difference <= BOUND}))


if __name__ == "__main__":
    main()

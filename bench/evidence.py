"""Does a student learn more from soft targets than from text? Several ways to learn, each from several seeds.

    python bench/evidence.py jobs/evidence-demo.yaml [--seeds 4] [--arms text soft ...]

The recipe has one student and learns from text. Every arm changes a few of its lines, written here as ARMS; a student is
trained from each seed, and asked the same held-out rows through the same endpoint. Whatever an arm shares with another
(prompts, generations, targets, a trained student) is made once, so the script goes on where it was stopped.

An arm's score is its accuracy, the mean over seeds. A difference to text is paired by seed; its interval is Student's t over
the seeds, so it speaks for training again on these rows. The second one is the bootstrap over rows of the seeds' mean, and
speaks for asking other rows. Both are of 95%. Mass is what the student gives to the teacher's listed ids, mean over the
tokens of held-out answers, beside the teacher's own.

Expected before measuring: soft above text by some points, since a token's targets say of every word what text says of one;
drawn about as soft; layers above soft early, for a layer's direction says more than its output; on-policy no better than
soft at equal steps where answers are short; the wrong losses as good in accuracy, for greedy answers do not show a mass, and
wrong in mass.
"""

import argparse
import copy
import itertools
import json
import os
import statistics
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import machine
import numpy as np
import yaml

HERE = Path(__file__).parent
SOFT: dict[str, Any] = {"score": {"k": 20}, "train": {"loss": {"kind": "forward_kl"}}}
ARMS: dict[str, dict[str, Any]] = {
    "text": {},
    "soft": SOFT,
    "soft-half": {**SOFT, "train": {**SOFT["train"], "epochs": 0.5}},
    "soft-quarter": {**SOFT, "train": {**SOFT["train"], "epochs": 0.25}},
    "drawn": {"score": {"support": "sampled", "draws": 12}, "train": {"loss": {"kind": "forward_kl"}}},
    "layers": {
        "train": {"teacher": "live", "loss": {"kind": "forward_kl", "layers": {}, "attention": {"weight": 0.1}}}
    },
    "on-policy": {
        **SOFT,
        "train": {**SOFT["train"], "epochs": 0.75},
        "rounds": 1,
        "on_policy": {"train": {"epochs": 0.25, "loss": {"kind": "reverse_kl"}}},
    },
    "truncated": {"score": {"k": 20}, "train": {"loss": {"kind": "wrong_losses:truncated"}}},
    "renormalised": {"score": {"k": 20}, "train": {"loss": {"kind": "wrong_losses:renormalised"}}},
}
"""Changes to the recipe; `epochs` here is a share of the recipe's."""
UNDISTILLED = "undistilled"
TARGETS = "soft"
"""The arm whose targets say what mass the teacher gives to its likeliest ids."""
MASS_ROWS = 64
T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""Two-sided 95% points of Student's t by degrees of freedom."""


@dataclass(frozen=True)
class Arm:
    """One arm's outcome: accuracy of each seed and row, and each seed's mass on the teacher's listed ids."""

    name: str
    accuracy_SR: list[list[float]]
    steps: int
    mass_S: list[float] | None = None

    @property
    def seeds(self) -> list[float]:
        """Accuracy by seed."""
        return [statistics.fmean(rows) for rows in self.accuracy_SR]


def recipe_of(base: Mapping[str, Any], arm: str, seeds: int) -> dict[str, Any]:
    """The base recipe with an arm's changes, and one student per seed."""
    changed = copy.deepcopy(dict(base))
    student, change = changed.pop("student"), copy.deepcopy(ARMS[arm])
    epochs = changed["train"]["epochs"]
    train = {**changed["train"], **change.pop("train", {})}
    train["epochs"] = epochs * ARMS[arm].get("train", {}).get("epochs", 1)
    if "on_policy" in change:
        change["on_policy"]["train"]["epochs"] *= epochs
        change["on_policy"].update(changed.get("on_policy", {}))
    students = {f"seed-{seed}": {**student, "train": {"seed": seed}} for seed in range(seeds)}
    return {**changed, **change, "name": f"{changed['name']}-{arm}", "train": train, "students": students}


def interval_of_seeds(differences: Sequence[float]) -> tuple[float, float]:
    """Student's t over paired differences; nothing for one seed."""
    if len(differences) < 2:
        return float("nan"), float("nan")
    mean = statistics.fmean(differences)
    half = T_95[len(differences) - 1] * statistics.stdev(differences) / len(differences) ** 0.5
    return mean - half, mean + half


def interval_of_rows(differences_SR: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Bootstrap over rows of the seeds' mean difference."""
    from raystill.metrics import mean
    from raystill.metrics.bootstrap import interval

    found = interval(mean(np.mean(differences_SR, axis=0).tolist()), 2000)
    return (found.low, found.high) if found else (float("nan"), float("nan"))


def run(base: Mapping[str, Any], arm: str, seeds: int) -> tuple[dict[str, list[list[float]]], Any]:
    """Train and ask an arm's students: accuracy by row of the teacher, of students and of what they started from (as lists
    of seeds under `teacher`, the arm's name and `undistilled`), and the line's artifacts."""
    from raystill import pipeline, recipe_file, session
    from raystill.stages import report
    from raystill.steps import Runner
    from raystill.view import Lines

    with tempfile.TemporaryDirectory(prefix="raystill-evidence-") as scratch:
        path = Path(scratch) / f"{arm}.yaml"
        path.write_text(yaml.safe_dump(recipe_of(base, arm, seeds), sort_keys=False))
        recipe = recipe_file.load(str(path)).recipe
        with session.ray_session(recipe.compute) as ensure:
            do = Runner(recipe, Lines(sys.stderr), threading.Event(), ensure, Path(scratch))
            made = pipeline.compare(recipe, pipeline.learn(recipe, do), do)
    per_row: dict[str, dict[str, float]] = {}
    for m in report.gather(recipe, made).comparison.per_row:
        if m.metric == "accuracy":
            per_row.setdefault(m.model, {})[m.id] = m.value
    rows = sorted(per_row["teacher"])
    names = list(recipe.all_students())
    asked = {"teacher": ["teacher"], UNDISTILLED: [f"{name}-baseline" for name in names], arm: names}
    return {of: [[per_row[name][row] for row in rows] for name in models] for of, models in asked.items()}, made


def steps(made: Any) -> int:
    """Of one student, those of its rounds included."""
    rounds = made.rounds.get("seed-0")
    trained = [rounds[0].writer, *(r.learner for r in rounds)] if rounds else [made.models["seed-0"]]
    return sum(model.counts["steps"] for model in trained)


def mass(model: str, made: Any) -> tuple[float, float]:
    """Mean probability of the teacher's listed ids, by a student and by the teacher, over tokens of held-out answers."""
    import torch
    from transformers import AutoModelForCausalLM

    from raystill import chat
    from raystill.artifacts import decode
    from raystill.records import Example
    from raystill.training import soft

    tokenizer = chat.load_tokenizer(model)
    student = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    own, teachers = [], []
    for part in made.examples.parts("validation"):
        found = soft.of_part(made.targets, part)
        of_part = decode(Example, made.examples.read(part.path), part.path)
        for example in itertools.islice(of_part, MASS_ROWS):
            target = found[example.id, example.teacher, example.sample_index]
            ids = torch.tensor(list(target.completion_ids))
            prompt = torch.tensor(chat.prompt_ids(tokenizer, example.messages[:-1]))
            rows = soft.of_top_k(target.packed)
            with torch.no_grad():
                logits_TV = student(torch.cat([prompt, ids])[None]).logits[0, len(prompt) - 1 : -1]
            listed_TK = logits_TV.log_softmax(1).gather(1, torch.from_numpy(rows["ids"].astype(np.int64)))
            own += listed_TK.exp().sum(1).tolist()
            teachers += (1 - np.exp(rows["logprobs"][:, -1])).tolist()
    return statistics.fmean(own), statistics.fmean(teachers)


def table(arms: Sequence[Arm], teacher: Sequence[float], teacher_mass: float | None) -> list[str]:
    """Markdown lines: one per arm."""
    kept = statistics.fmean(teacher)
    said = "" if teacher_mass is None else f"{teacher_mass:.3f}"
    lines = [
        "| arm | steps | accuracy | by seed | retention | minus text | over seeds | over rows | mass on listed ids |",
        "|---|---|---|---|---|---|---|---|---|",
        f"| (the teacher) | | {kept:.3f} | | | | | | {said} |",
    ]
    text = next((a for a in arms if a.name == "text"), None)
    for arm in arms:
        mean = statistics.fmean(arm.seeds)
        difference = ["", "", ""]
        if text and arm is not text:
            apart_SR = np.subtract(arm.accuracy_SR, text.accuracy_SR)
            bounds = interval_of_seeds(apart_SR.mean(1).tolist()), interval_of_rows(apart_SR.tolist())
            difference = [f"{apart_SR.mean():+.3f}", *(f"[{low:+.3f}, {high:+.3f}]" for low, high in bounds)]
        by_seed = " ".join(f"{s:.3f}" for s in arm.seeds)
        held = "" if arm.mass_S is None else f"{statistics.fmean(arm.mass_S):.3f}"
        lines.append(
            f"| {arm.name} | {arm.steps} | {mean:.3f} | {by_seed} | {mean / kept:.3f} | {' | '.join(difference)} | {held} |"
        )
    return lines


def main() -> None:
    """Run the arms, print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("recipe")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    options = parser.parse_args()
    base = yaml.safe_load(Path(options.recipe).read_text())
    # Ray's workers find wrong_losses there.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    arms: list[Arm] = []
    lines: dict[str, Any] = {}
    teacher: list[float] = []
    for name in options.arms:
        accuracy, lines[name] = run(base, name, options.seeds)
        teacher = accuracy["teacher"][0]
        if not arms:
            arms.append(Arm(UNDISTILLED, accuracy[UNDISTILLED], 0))
        arms.append(Arm(name, accuracy[name], steps(lines[name])))
        print(f"{name}: {' '.join(f'{s:.3f}' for s in arms[-1].seeds)}", file=sys.stderr, flush=True)
    teacher_mass = None
    if TARGETS in lines:
        scored = lines[TARGETS]
        for i, arm in enumerate(arms[1:], 1):
            students = [lines[arm.name].models[f"seed-{seed}"].folder() for seed in range(options.seeds)]
            found = [mass(folder, scored) for folder in students]
            teacher_mass = found[0][1]
            arms[i] = Arm(**{**asdict(arm), "mass_S": [own for own, _ in found]})
    print("\n".join(table(arms, teacher, teacher_mass)))
    made = {
        "bench": "evidence",
        "recipe": options.recipe,
        "seeds": options.seeds,
        "teacher": statistics.fmean(teacher),
        "teacher_mass": teacher_mass,
        "arms": {a.name: {"accuracy": a.seeds, "mass": a.mass_S, "steps": a.steps} for a in arms},
        **machine.seen(),
    }
    print(json.dumps(made))


if __name__ == "__main__":
    main()

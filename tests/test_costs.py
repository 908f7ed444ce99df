"""What a plan says a run takes: arithmetic that follows the recipe, instantly, with what was assumed."""

import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from raystill import costs, planning, printed, sample, storage
from raystill.artifacts import Manifest
from raystill.costs import Estimate
from raystill.sample import Sample, Took

JOBS = Path(__file__).parents[1] / "jobs"


def estimate(folder: Path, base: str = "support-deepseek-phi4", **changes: Any) -> Estimate:
    values = yaml.safe_load((JOBS / f"{base}.yaml").read_text()) | changes
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    made = planning.plan(str(path))
    assert not made.problems
    found = costs.estimate(made)
    assert found is not None
    return found


def by_stage(of: Estimate) -> dict[str, costs.Cost]:
    return {cost.stage: cost for cost in of.costs}


def test_the_flagship_is_planned_with_its_arithmetic(tmp_path: Path) -> None:
    found = estimate(tmp_path)
    stages = by_stage(found)
    assert list(stages) == ["generate", "train student", "evaluate"]
    assert (stages["generate"].devices, stages["train student"].devices) == (8, 4)
    assert "84 GB of weights" in stages["generate"].how and "of 141 GB" in stages["generate"].how
    assert "optimizer 11.5" in stages["train student"].how
    for cost in found.costs:
        assert cost.hours.low < cost.hours.likely < cost.hours.high
        assert cost.money is not None
        assert cost.money.likely == pytest.approx(cost.hours.likely * cost.devices / 8 * 32)
    assert found.money and found.money.likely == pytest.approx(sum(c.money.likely for c in found.costs if c.money))
    shown = printed.estimate(found)
    assert "50,000 train rows: as data.limit says" in shown and "cheaper while its node costs less than" in shown


def test_more_rows_tokens_and_epochs_take_as_much_more(tmp_path: Path) -> None:
    values = yaml.safe_load((JOBS / "support-deepseek-phi4.yaml").read_text())
    once = by_stage(estimate(tmp_path))
    rows = by_stage(estimate(tmp_path, data=values["data"] | {"limit": 100_000}))
    epochs = by_stage(estimate(tmp_path, train=values["train"] | {"epochs": 4}))
    samples = by_stage(estimate(tmp_path, teacher=values["teacher"] | {"sampling": {"n": 4, "max_tokens": 512}}))
    assert rows["generate"].tokens.likely == pytest.approx(2 * once["generate"].tokens.likely)
    assert epochs["train student"].tokens.likely == pytest.approx(2 * once["train student"].tokens.likely)
    assert epochs["generate"].hours == once["generate"].hours
    assert samples["generate"].tokens.likely == pytest.approx(4 * once["generate"].tokens.likely)


def test_a_teacher_that_its_gpus_cannot_hold_gets_more_and_it_is_said(tmp_path: Path) -> None:
    values = yaml.safe_load((JOBS / "support-deepseek-phi4.yaml").read_text())
    compute = {"kubernetes": values["compute"]["kubernetes"] | {"gpu": "h100"}}
    found = estimate(tmp_path, compute=compute)
    assert by_stage(found)["generate"].devices == 16
    assert any("tensor_parallel: 8, pipeline_parallel: 2" in line for line in found.assumed)


def test_replicas_share_the_work(tmp_path: Path) -> None:
    values = yaml.safe_load((JOBS / "support-deepseek-phi4.yaml").read_text())
    compute = values["compute"] | {"generate": {"replicas": [1, 4], "tensor_parallel": 8}}
    one, four = (by_stage(estimate(tmp_path, **c))["generate"] for c in ({}, {"compute": compute}))
    assert four.devices == 4 * one.devices
    start = (costs.START_S[True] + 671e9 / costs.LOADED) / 3600
    assert one.hours.likely - start == pytest.approx(4 * (four.hours.likely - start), rel=0.01)


def test_an_endpoint_costs_its_price_at_its_pace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    monkeypatch.chdir(tmp_path)
    rows = [{"text": "My parcel has not come. " * 10, "label": "delivery"} for _ in range(1000)]
    (tmp_path / "data/tickets").mkdir(parents=True)
    text = "".join(json.dumps(row | {"n": n}) + "\n" for n, row in enumerate(rows))
    (tmp_path / "data/tickets/a.jsonl").write_text(text)
    found = by_stage(estimate(tmp_path, "api-teacher"))["generate"]
    assert (found.devices, found.hours.likely) == (0, pytest.approx(900 / 500 / 60))
    assert found.money is not None
    read, wrote = 900 * (60 + 20 + 27), 900 * 3
    assert found.money.likely == pytest.approx((2 * read + 8 * wrote) / 1e6, rel=0.1)


def test_a_cascades_second_teacher_is_asked_what_nobody_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    data = {"train": "s3://support/*.jsonl.gz", "limit": 1000, "split": {"by": "customer"}, "turns": "each"}
    found = by_stage(estimate(tmp_path, "support-cascade", data=data))
    assert found["generate api"].tokens.low == 0
    assert found["generate api"].tokens.high > found["generate api"].tokens.likely


def test_scores_and_rounds_are_stages_of_their_own(tmp_path: Path) -> None:
    pair = {"teacher": {"model": "Qwen/Qwen3-8B"}, "student": {"model": "Qwen/Qwen3-0.6B"}}
    soft = {"score": {"k": 50}, "train": {"loss": {"kind": "reverse_kl"}, "epochs": 1}, "rounds": 2}
    found = by_stage(estimate(tmp_path, **pair, **soft, compute={"kubernetes": {"gpu": "h100"}}))
    rounds = [f"{stage} student round {n}" for n in (1, 2) for stage in ("generate", "score", "train")]
    assert list(found) == ["generate", "score", "train student", *rounds, "evaluate"]
    assert found["score"].tokens == found["generate"].tokens
    assert found["generate student round 1"].hours.likely < found["generate"].hours.likely


def test_a_model_of_unknown_size_is_said_and_not_guessed(tmp_path: Path) -> None:
    found = estimate(tmp_path, teacher={"model": "someone/unknown"})
    assert "generate" not in by_stage(found)
    assert any("the size of someone/unknown is not known" in line for line in found.assumed)


def test_what_was_measured_replaces_what_was_assumed(tmp_path: Path) -> None:
    root = str(tmp_path / "runs")
    given = {"root": root, "compute": {"kubernetes": {"gpu": "h200"}}}
    before = estimate(tmp_path, **given)
    recipe = planning.plan(str(tmp_path / "recipe.yaml")).recipe
    assert recipe is not None and sample.of(recipe) is None
    took = {"generate": Took(100, 0.05), "train student": Took(60, 1e-5), "answer student": Took(40, 0.1)}
    made = Sample(took, 10, 400, 120, 0.9, {"train student": 450})
    storage.write(sample._url(recipe), json.dumps(dataclasses.asdict(made)).encode())
    found = estimate(tmp_path, **given)
    stages = by_stage(found)
    asked = 50_000 * (0.94 + 0.02)
    assert stages["generate"].hours.likely * 3600 == pytest.approx(100 + 0.05 * asked, rel=0.01)
    assert stages["train student"].tokens.likely == pytest.approx(47_000 * 0.9 * 2 * 450, rel=0.01)
    assert stages["generate"].hours.high < 1.2 * stages["generate"].hours.likely
    assert stages["generate"].how.startswith("measured")
    assert not any("bandwidth" in line for line in found.assumed) and before.assumed
    values = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    changed = estimate(tmp_path, **given, train=values["train"] | {"learning_rate": 1e-5})
    assert not by_stage(changed)["generate"].how.startswith("measured")


def test_what_is_done_costs_nothing_more(tmp_path: Path) -> None:
    made = planning.plan(str(JOBS / "support-deepseek-phi4.yaml"))
    left = ("prepare", "curate")
    done = [replace(step, state="to do" if step.label in left else "done") for step in made.steps]
    assert costs.estimate(planning.Plan(made.recipe, done, [])) is None


@pytest.mark.parametrize("job", ["support-deepseek-phi4", "math-llama405b-llama8b"])
def test_a_plan_takes_under_half_a_second_of_cpu_and_loads_nothing_heavy(job: str, tmp_path: Path) -> None:
    code = (
        "import sys, time; from raystill import costs, planning, printed; "
        f"printed.estimate(costs.estimate(planning.plan({str(JOBS / job) + '.yaml'!r}))); "
        "heavy = {'torch', 'ray', 'vllm', 'deepspeed', 'transformers', 'datasets'} & set(sys.modules); "
        "assert not heavy, heavy; print(time.process_time())"
    )
    # The first one compiles raystill's own files, as an installation does.
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | {
        "PYTHONPYCACHEPREFIX": str(tmp_path)
    }
    done = [subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=kept) for _ in range(4)]
    took = [float(each.stdout) for each in done]
    assert min(took) < 0.5


def test_the_rows_of_a_teachers_own_recipe_are_not_the_students(tmp_path: Path) -> None:
    """Its `prepare` is done, and theirs is not."""
    shape = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64, "intermediate_size": 128}
    (tmp_path / "model").mkdir()
    whole = shape | {"vocab_size": 300, "max_position_embeddings": 4096}
    (tmp_path / "model/config.json").write_text(json.dumps(whole))
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"prompt": "question {n}"}}\n' for n in range(1000)))
    first = {
        "name": "first",
        "task": "conversation",
        "root": str(tmp_path / "runs"),
        "data": {"train": str(tmp_path / "rows.jsonl")},
        "teacher": {"kind": "reference"},
        "student": {"model": str(tmp_path / "model")},
    }
    (tmp_path / "first.yaml").write_text(yaml.safe_dump(first))
    (prepare, *_) = planning.plan(str(tmp_path / "first.yaml")).steps
    manifest = Manifest(
        "prompts",
        1,
        "prepare",
        1,
        prepare.fingerprint,
        {},
        {},
        [],
        {"rows": {"train": 850, "validation": 50, "test": 100}},
        {},
        {},
    )
    storage.write(f"{prepare.url}/manifest.json", manifest.dump())
    second = first | {"name": "second", "teacher": {"recipe": str(tmp_path / "first.yaml")}}
    second["data"] = {"train": str(tmp_path / "rows.jsonl"), "limit": 100}
    (tmp_path / "second.yaml").write_text(yaml.safe_dump(second))
    made = planning.plan(str(tmp_path / "second.yaml"))
    assert not made.problems
    found = costs.estimate(made)
    assert found is not None
    prompt = len("question 500") / 4 + 20
    assert by_stage(found)["generate"].tokens.likely == pytest.approx(150 * (prompt + 256), rel=0.02)

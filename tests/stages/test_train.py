import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from raystill import artifacts, recipe
from raystill.artifacts import ADAPTER, Checkpoint, Manifest, Outcome, Table
from raystill.context import Context
from raystill.errors import DataError, Interrupted, RecipeError, ResourceError
from raystill.records import Example, Ids, Message
from raystill.stages import train
from raystill.training import loop


class Told:
    """A Progress that keeps what it is told, and may press Ctrl-C after a step."""

    def __init__(self) -> None:
        self.done, self.total, self.lines = 0, None, []
        self.after: dict[int, Any] = {}

    def start(self, stage: str, total: int | None, unit: str) -> None:
        self.total = total

    def advance(self, done: int = 1, **scalars: float) -> None:
        self.done += done
        for step in [s for s in self.after if s <= self.done]:
            self.after.pop(step)()

    def say(self, text: str) -> None:
        self.lines.append(text)


class Log:
    """A tracker that keeps what it is told."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, float]] = {}

    def log(self, step: int, scalars: dict[str, float]) -> None:
        self.rows[step] = scalars


def examples(folder: Path, n: int = 48, validation: int = 6) -> Table:
    words = ["red", "green", "blue", "kettle", "lamp", "chair", "order", "late", "broken", "lost"]

    def example(i: int, split: str) -> Example:
        said = " ".join(words[(i * k + k) % len(words)] for k in range(1, 3 + i % 7))
        messages = [Message("user", f"Where is {said}?"), Message("assistant", f"The {said} is here.")]
        return Example(f"{split}{i}", "reference", 0, split, messages, None, [1], Ids([]))

    made = {s: [example(i, s) for i in range(k)] for s, k in (("train", n), ("validation", validation))}
    files = [artifacts.write_part(str(folder), s, Example, rows) for s, rows in made.items() if rows]
    return Table(str(folder), "0" * 12, Manifest("examples", 1, "curate", 1, "0" * 12, {}, {}, files))


def context(folder: Path, progress: Told | None = None, **compute: Any) -> Context:
    scratch = folder / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    workers = recipe.Workers(**{"workers": 1, "cpus": 1, **compute})
    return Context(
        url=str(folder / "artifact"),
        compute=recipe.Compute(train=workers),
        progress=progress or Told(),
        max_error_rate=0.05,
        scratch=scratch,
    )


def curve(outcome: Outcome, where: Context) -> list[dict[str, Any]]:
    (path,) = (f.path for f in outcome.files if f.path.endswith(train.CURVE))
    return [json.loads(line) for line in (Path(where.url) / path).read_text().splitlines()]


def losses(outcome: Outcome, where: Context) -> list[float]:
    return [row["loss"] for row in curve(outcome, where)]


def validations(rows: list[dict[str, Any]]) -> dict[int, float]:
    return {row["step"]: row["validation_loss"] for row in rows if row["validation_loss"] is not None}


CONFIG = recipe.Train(epochs=2, batch_size=8, learning_rate=3e-3, validations=2, max_length=128)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def run(model: Path, where: Context, table: Table, config: recipe.Train = CONFIG, log: Log | None = None) -> Outcome:
    return train.train(config, None, table, None, Checkpoint(str(model), "m"), [log] if log else [], where)


def test_owned_deepspeed_keys_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    config = recipe.Train(deepspeed={"optimizer": {"type": "Adam"}})
    with pytest.raises(RecipeError, match=r"train\.learning_rate"):
        run(tiny_model, context(tmp_path), examples(tmp_path / "examples", 2, 0), config)


def test_too_long_examples_are_dropped_and_none_left_is_said(tiny_model: Path, tmp_path: Path) -> None:
    config = recipe.Train(max_length=8)
    with pytest.raises(DataError, match=r"2 too long.*train\.max_length \(now 8\)"):
        run(tiny_model, context(tmp_path), examples(tmp_path / "examples", 2, 0), config)


def test_a_missing_loss_is_refused_before_anything_starts(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="did you mean 'forward_kl'"):
        run(
            tiny_model,
            context(tmp_path),
            examples(tmp_path / "examples", 2, 0),
            recipe.Train(loss=recipe.Loss(kind="forward")),
        )


def test_layers_that_the_student_lacks_are_refused_before_anything_starts(tiny_model: Path, tmp_path: Path) -> None:
    config = recipe.Train(lora=recipe.Lora(targets=["query_key_value"]))
    with pytest.raises(RecipeError, match=r"no linear layer query_key_value .*it has down_proj, gate_proj"):
        run(tiny_model, context(tmp_path), examples(tmp_path / "examples", 2, 0), config)


@pytest.mark.slow
def test_too_few_cpus_are_refused_with_the_arithmetic(cluster: None, tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="needs 12 CPUs"):
        run(tiny_model, context(tmp_path, workers=3, cpus=4), examples(tmp_path / "examples", 2, 0))


@pytest.fixture(scope="module")
def alone(cluster: None, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The curve of one worker without ZeRO, one micro-batch to a step."""
    folder = tmp_path_factory.mktemp("alone")
    where = context(folder, workers=1, zero=0, micro_tokens=4096)
    return curve(run(tiny_model, where, examples(folder / "examples")), where)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("zero", "workers", "micro_tokens", "packing"),
    [(0, 2, 4096, True), (1, 2, 64, True), (2, 2, 64, True), (3, 2, 64, True), (1, 1, 40, False)],
)
def test_losses_are_those_of_one_worker(
    alone: list[dict[str, Any]],
    tiny_model: Path,
    tmp_path: Path,
    zero: int,
    workers: int,
    micro_tokens: int,
    packing: bool,
) -> None:
    told, log = Told(), Log()
    where = context(tmp_path, told, workers=workers, zero=zero, micro_tokens=micro_tokens)
    config = CONFIG.model_copy(update={"packing": packing})
    outcome = run(tiny_model, where, examples(tmp_path / "examples"), config, log)
    rows = curve(outcome, where)
    assert [r["loss"] for r in rows] == pytest.approx([r["loss"] for r in alone], rel=1e-5)
    assert validations(rows) == pytest.approx(validations(alone), rel=1e-5)
    assert [r["gradient_norm"] for r in rows] == pytest.approx([r["gradient_norm"] for r in alone], rel=1e-4)
    assert all(r["tokens_per_s"] > r["supervised_tokens_per_s"] > 0 and r["memory_bytes"] > 100 << 20 for r in rows)
    assert {r["mfu"] for r in rows} == {None} and not any(r["resumed"] for r in rows)
    assert list(validations(rows)) == [6, 12]
    assert rows[-1]["loss"] < rows[0]["loss"] - 1
    assert told.total == told.done == len(rows) == len(log.rows) == 12
    assert outcome.facts["logits_difference"] < 1e-4
    assert (outcome.counts["train"], outcome.counts["validation"]) == (48, 6)
    there = {p.relative_to(where.url).as_posix() for p in Path(where.url).rglob("*") if p.is_file()}
    assert {f.path for f in outcome.files} == there


@pytest.mark.slow
def test_a_killed_worker_and_a_torn_checkpoint_change_nothing(
    alone: list[dict[str, Any]], tiny_model: Path, tmp_path: Path
) -> None:
    told = Told()
    where = context(tmp_path, told, workers=2, zero=1, micro_tokens=64, resume_failures=1)

    def tear_and_kill() -> None:
        newest = max((Path(where.url) / loop.CHECKPOINTS).glob("step-*"))
        shard = max(newest.rglob("*optim_states.pt"))
        shard.write_bytes(shard.read_bytes()[:-100])
        os.kill(workers()[0], signal.SIGKILL)

    told.after[7] = tear_and_kill
    config = CONFIG.model_copy(update={"checkpoint_every": 2})
    outcome = run(tiny_model, where, examples(tmp_path / "examples"), config)
    assert losses(outcome, where) == pytest.approx([r["loss"] for r in alone], rel=1e-5)
    assert any("incomplete or damaged" in line for line in told.lines)
    (on,) = (int(said[1]) for line in told.lines if (said := re.search(r"goes on after step (\d+)", line)))
    assert [row["step"] for row in curve(outcome, where) if row["resumed"]] == [on + 1]


@pytest.mark.slow
def test_ctrl_c_stops_and_the_same_call_goes_on(alone: list[dict[str, Any]], tiny_model: Path, tmp_path: Path) -> None:
    table = examples(tmp_path / "examples")
    where = context(tmp_path, workers=2, zero=2, micro_tokens=64)
    where.stopping.set()
    with pytest.raises(Interrupted, match="same command"):
        run(tiny_model, where, table)
    with pytest.raises(ResourceError, match=r"compute\.train\.zero: 2 to resume"):
        run(tiny_model, context(tmp_path, workers=1, zero=3), table)
    told = Told()
    again = context(tmp_path, told, workers=1, zero=1, micro_tokens=64)
    assert losses(run(tiny_model, again, table), again) == pytest.approx([r["loss"] for r in alone], rel=1e-5)
    assert "training goes on after step 1 with 1 worker and ZeRO 1, where it had 2 workers and ZeRO 2" in told.lines
    assert not list((Path(again.url) / "work").rglob("*.pt"))


@pytest.mark.slow
@pytest.mark.parametrize("zero", [1, 3])
def test_an_adapter_goes_on_from_a_checkpoint_of_its_own_weights(
    cluster: None, tiny_model: Path, tmp_path: Path, zero: int
) -> None:
    # Without the threshold ZeRO 3 would shard no tensor of so small a model.
    keys = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
    config = CONFIG.model_copy(update={"lora": recipe.Lora(r=4), "deepspeed": keys})
    table = examples(tmp_path / "examples")
    whole = context(tmp_path / "whole", workers=1, zero=0, micro_tokens=4096)
    alone = losses(run(tiny_model, whole, table, config), whole)
    told = Told()
    where = context(tmp_path / "parts", told, workers=2, zero=zero, micro_tokens=64)
    where.stopping.set()
    with pytest.raises(Interrupted):
        run(tiny_model, where, table, config)
    kept = [torch.load(f, weights_only=False)["module"] for f in Path(where.url).rglob("*model_states.pt")]
    # DeepSpeed leaves frozen parameters out by name, and so keeps the second name of a tied head.
    assert kept and all(".lora_" in name or "lm_head" in name for module in kept for name in module)
    again = context(tmp_path / "parts", workers=2, zero=zero, micro_tokens=64)
    outcome = run(tiny_model, again, table, config)
    assert losses(outcome, again) == pytest.approx(alone, rel=1e-5)
    assert alone[-1] < alone[0] - 0.1
    assert outcome.facts["logits_difference"] < 1e-4
    assert f"{outcome.facts['folder']}/{ADAPTER}/adapter_model.safetensors" in {f.path for f in outcome.files}
    assert any("train.learning_rate 0.003 is outside 0.0001 to 0.0005" in line for line in told.lines)


@pytest.mark.slow
def test_ctrl_c_while_it_learns_stops_after_a_step_or_two(cluster: None, tiny_model: Path, tmp_path: Path) -> None:
    told = Told()
    where = context(tmp_path, told, workers=1, zero=0, micro_tokens=64)
    told.after[3] = where.stopping.set
    long = CONFIG.model_copy(update={"epochs": 500, "validations": 0})
    with pytest.raises(Interrupted, match="after step") as stopped:
        run(tiny_model, where, examples(tmp_path / "examples"), long)
    assert int(str(stopped.value).split("after step ")[1].split(";")[0]) < 500


def workers() -> list[int]:
    """Process ids of this driver's train workers."""
    import psutil
    import ray

    session = ray._private.worker._global_node.get_session_dir_path()
    mine = [
        p for p in psutil.process_iter(["cmdline", "name"]) if "RayTrainWorker" in " ".join(p.info["cmdline"] or [])
    ]
    return [p.pid for p in mine if session in " ".join(p.parent().cmdline())]

"""Rows 28 to 32 of the fault list in docs/checkpoints.md: a training on S3 whose numbers, workers and store go wrong.

Row 30, damaged checkpoints, and row 31, other numbers of workers, have more tests in tests/training.
"""

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fixtures_s3 import Proxy, before_s3, s3_server
from test_train import CONFIG, Told, context, examples, run, workers

from raystill import artifacts, storage
from raystill.artifacts import Outcome, Table
from raystill.context import Context
from raystill.errors import StageError
from raystill.records import Example
from raystill.stages import train
from raystill.training import loop

pytestmark = pytest.mark.slow
LONG = CONFIG.model_copy(update={"epochs": 5, "checkpoint_every": 4})
"""30 steps: a driver that looks a few times a second sees it in time."""


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    """A store and what stands before it, set before Ray's workers inherit their environment."""
    with s3_server(), before_s3() as proxy:
        yield proxy


@pytest.fixture(scope="module")
def cluster(proxy: Proxy) -> Iterator[None]:
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def calm(proxy: Proxy) -> Iterator[None]:
    yield
    proxy.watch = lambda command, path: None


def on_s3(folder: Path, told: Told, **compute: Any) -> Context:
    """A stage's surroundings with its artifact on the store."""
    return replace(context(folder, told, micro_tokens=64, **compute), url=f"s3://bucket/{folder.name}")


def losses(outcome: Outcome, where: Context) -> list[float]:
    (path,) = (f.path for f in outcome.files if f.path.endswith(train.CURVE))
    return [json.loads(line)["loss"] for line in storage.read(storage.join(where.url, path)).splitlines()]


@pytest.fixture(scope="module")
def expected(cluster: None, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The losses of one worker to which nothing happens; sums in another order differ by less."""
    folder = tmp_path_factory.mktemp("alone")
    where = on_s3(folder, Told(), workers=1, zero=0)
    return pytest.approx(losses(run(tiny_model, where, examples(folder / "examples"), LONG), where), rel=1e-5)


def test_row_28_when_no_step_has_a_finite_loss_training_ends_and_says_so(
    cluster: None, tiny_model: Path, tmp_path: Path
) -> None:
    table = examples(tmp_path / "examples")
    rows = [replace(row, weight=1e39) for row in table.rows(Example)]  # infinite in float32
    files = [artifacts.write_part(str(tmp_path / "infinite"), "train", Example, rows)]
    assert table.manifest
    infinite = Table(str(tmp_path / "infinite"), "1" * 12, replace(table.manifest, files=files))
    told = Told()
    with pytest.raises(StageError, match=r"diverged: steps 1 to 5 of \d+ had no finite loss.*train\.learning_rate"):
        run(tiny_model, on_s3(tmp_path, told, workers=2, zero=1), infinite)
    assert sum("was not applied" in line for line in told.lines) == loop.MAX_SKIPS - 1  # the last one is the error


def kill_at(proxy: Proxy, *puts: tuple[int, str]) -> None:
    """Kill all workers when they first store this file of this step's checkpoint, before the store has it."""
    left = list(puts)

    def watch(command: str, path: str) -> str | None:
        if left and command == "PUT" and f"/step-{left[0][0]:08d}." in path and path.endswith(left[0][1]):
            left.pop(0)
            for pid in workers():
                os.kill(pid, signal.SIGKILL)
            return "503"
        return None

    proxy.watch = watch


def test_row_29_workers_killed_while_they_upload_before_the_manifest_and_while_they_report(
    expected: Any, proxy: Proxy, tiny_model: Path, tmp_path: Path
) -> None:
    told = Told()
    kill_at(proxy, (8, "optim_states.pt"), (16, "manifest.json"))
    told.after[22] = lambda: os.kill(workers()[0], signal.SIGKILL)
    where = on_s3(tmp_path, told, workers=2, zero=1, resume_failures=3)
    outcome = run(tiny_model, where, examples(tmp_path / "examples"), LONG)
    assert losses(outcome, where) == expected
    went_on = [line.split(" with ")[0] for line in told.lines if "training goes on after step" in line]
    assert went_on[:2] == ["training goes on after step 4", "training goes on after step 12"]
    assert len(went_on) == 3
    assert not [e for e in storage.entries(where.url) if "/work/checkpoints/" in e.url]


def test_row_31_fewer_workers_go_on_from_the_store(
    expected: Any, proxy: Proxy, tiny_model: Path, tmp_path: Path
) -> None:
    """More layouts: test_resume.py."""
    table, told = examples(tmp_path / "examples"), Told()
    kill_at(proxy, (12, "manifest.json"))
    with pytest.raises(StageError, match=r"lost its workers 1 times.*same command goes on"):
        run(tiny_model, on_s3(tmp_path, told, workers=2, zero=3, resume_failures=0), table, LONG)
    where = on_s3(tmp_path, told, workers=1, zero=3)
    assert losses(run(tiny_model, where, table, LONG), where) == expected
    said = "training goes on after step 8 with 1 worker and ZeRO 3, where it had 2 workers and ZeRO 3"
    assert said in told.lines


def test_row_32_a_store_that_refuses_one_checkpoint_takes_the_next(
    expected: Any, proxy: Proxy, tiny_model: Path, tmp_path: Path
) -> None:
    told = Told()
    stored: list[str] = []

    def watch(command: str, path: str) -> str | None:
        if command == "PUT" and "/step-" in path:
            stored.append(path.split("/step-")[1][:8])
        return "403" if command == "PUT" and "/step-00000008" in path else None

    proxy.watch = watch
    where = on_s3(tmp_path, told, workers=2, zero=1)
    outcome = run(tiny_model, where, examples(tmp_path / "examples"), LONG)
    assert losses(outcome, where) == expected
    assert sum("the checkpoint after step 8 is not stored" in line for line in told.lines) == 1
    assert sum("AccessDenied" in line for line in told.lines) == 1
    assert list(dict.fromkeys(stored)) == [f"{step:08d}" for step in range(4, 30, 4)]


def test_row_32_ctrl_c_tells_when_its_checkpoint_is_not_stored(
    cluster: None, proxy: Proxy, tiny_model: Path, tmp_path: Path
) -> None:
    proxy.watch = lambda command, path: "403" if command == "PUT" and "/step-" in path else None
    where = on_s3(tmp_path, Told(), workers=1, zero=1)
    where.stopping.set()
    with pytest.raises(StageError, match=r"stopped after step 1, and its checkpoint is not stored: .*AccessDenied"):
        run(tiny_model, where, examples(tmp_path / "examples"))

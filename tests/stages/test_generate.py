"""generate with the scripted teacher: real Ray Data, faults on cue, and a ledger that reads files by itself."""

import contextlib
import io
import json
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import ray

from raystill import artifacts, session
from raystill.artifacts import Manifest, Table
from raystill.context import Context
from raystill.errors import ResourceError, StageError
from raystill.recipe import Compute, Teacher
from raystill.records import Message, Prompt
from raystill.stages import generate
from raystill.view import Lines

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with session.ray_session(Compute()) as ensure:
        ensure()
        yield


def prompts_of(root: Path, texts: list[list[str]], reference: str | None = "an answer") -> Table:
    """A prepare artifact with one part per inner list."""
    url, parts, n = str(root / "prepare" / "p"), [], 0
    for part in texts:
        rows = []
        for text in part:
            rows.append(Prompt(f"row-{n}", None, [Message("user", text)], None, "t", "f", "train", reference, "{}"))
            n += 1
        parts.append(artifacts.write_part(url, "train", Prompt, rows))
    return artifacts.commit(Table, url, Manifest("prompts", 1, "prepare", 1, "p", {}, {}, parts))


def context(root: Path, name: str, compute: Compute | None = None, max_error_rate: float = 0.1) -> Context:
    return Context(str(root / "generate" / name), compute or Compute(), Lines(io.StringIO()), max_error_rate, root)


def ledger(root: Path, name: str, prompts: Table) -> tuple[list[str], dict[str, str]]:
    """Answered ids and rejected ids with reasons, read straight from the files; every input id is in exactly one."""
    answered, rejected = [], {}
    for file in (root / "generate" / name).glob("*.parquet"):
        for row in pq.read_table(file).to_pylist():
            if row["error"]:
                rejected[row["id"]] = row["error"]
            else:
                answered.append(row["id"])
    asked = [r["id"] for f in Path(prompts.url).glob("*.parquet") for r in pq.read_table(f).to_pylist()]
    assert Counter([*answered, *rejected]) == Counter(asked)
    return answered, rejected


SCRIPTED = Teacher(kind="scripted")


def test_every_prompt_is_answered_once(tmp_path: Path) -> None:
    prompts = prompts_of(tmp_path, [[f"{u} {i}" for i in range(20)] for u in range(3)])
    outcome = generate.generate(SCRIPTED, None, prompts, None, None, context(tmp_path, "a"))
    answered, rejected = ledger(tmp_path, "a", prompts)
    assert len(answered) == 60
    assert not rejected
    assert outcome.counts["answers"] == 60


def test_a_bad_row_is_data_and_the_others_go_on(tmp_path: Path) -> None:
    prompts = prompts_of(tmp_path, [[f"{i}" for i in range(19)] + ["<<error>>"]])
    outcome = generate.generate(SCRIPTED, None, prompts, None, None, context(tmp_path, "a"))
    assert ledger(tmp_path, "a", prompts)[1] == {"row-19": "scripted error"}
    assert outcome.counts["errors"] == {"scripted error": 1}


def test_too_many_bad_rows_stop_the_stage_and_keep_the_units(tmp_path: Path) -> None:
    prompts = prompts_of(tmp_path, [["<<error>>"] * 10, ["fine"] * 10])
    with pytest.raises(StageError, match=r"10 of 20 rows.*scripted error"):
        generate.generate(SCRIPTED, None, prompts, None, None, context(tmp_path, "a"))
    assert len(list((tmp_path / "generate" / "a").glob("*.parquet"))) == 2


def test_a_dead_replica_is_replaced(tmp_path: Path) -> None:
    once = tmp_path / "died"
    prompts = prompts_of(tmp_path, [[f"{i}" for i in range(9)] + [f"<<kill-once:{once}>>"], ["fine"] * 10])
    generate.generate(SCRIPTED, None, prompts, None, None, context(tmp_path, "a"))
    assert once.exists()
    assert len(ledger(tmp_path, "a", prompts)[0]) == 20


def test_an_engine_that_hangs_is_replaced(tmp_path: Path) -> None:
    once = tmp_path / "hung"
    prompts = prompts_of(tmp_path, [[f"{i}" for i in range(9)] + [f"<<hang-once:{once}>>"], ["fine"] * 10])
    generate.generate(Teacher(kind="scripted", stall_s=2), None, prompts, None, None, context(tmp_path, "a"))
    assert once.exists()
    assert len(ledger(tmp_path, "a", prompts)[0]) == 20


def test_a_row_that_kills_every_engine_is_given_up_and_the_others_go_on(tmp_path: Path) -> None:
    prompts = prompts_of(tmp_path, [[f"{i}" for i in range(9)] + ["<<kill>>"], ["fine"] * 10])
    generate.generate(SCRIPTED, None, prompts, None, None, context(tmp_path, "a"))
    answered, rejected = ledger(tmp_path, "a", prompts)
    assert rejected == {"row-9": "ended its engine"}
    assert len(answered) == 19


def test_equal_units_of_another_run_are_taken_over(tmp_path: Path) -> None:
    shared = [[f"{u} {i}" for i in range(5)] for u in range(2)]
    prompts = prompts_of(tmp_path, shared)
    generate.generate(SCRIPTED, None, prompts, None, None, context(tmp_path, "a"))
    again = generate.generate(SCRIPTED, None, prompts, None, None, context(tmp_path, "b"))
    assert again.counts["reused_units"] == 2
    hotter = Teacher(kind="scripted", sampling={"temperature": 1.0})
    assert generate.generate(hotter, None, prompts, None, None, context(tmp_path, "c")).counts["reused_units"] == 0


def test_n_samples_are_n_rows(tmp_path: Path) -> None:
    prompts = prompts_of(tmp_path, [["a", "b"]])
    three = Teacher(kind="scripted", sampling={"n": 3})
    assert generate.generate(three, None, prompts, None, None, context(tmp_path, "a")).counts["answers"] == 6


def test_too_few_cpus_are_refused_with_the_arithmetic(tmp_path: Path) -> None:
    prompts = prompts_of(tmp_path, [["a"]])
    wide = Compute.model_validate({"generate": {"cpus": 1000}})
    with pytest.raises(
        ResourceError,
        match=r"one generate replica needs 1000 CPUs and 0 GPUs on one node; the nodes of this Ray cluster are 1 of",
    ):
        generate.generate(SCRIPTED, None, prompts, None, None, context(tmp_path, "a", wide))


def test_the_run_goes_on_with_the_replicas_that_fit_and_says_so(tmp_path: Path) -> None:
    prompts = prompts_of(tmp_path, [["a"], ["b"]])
    wide = Compute.model_validate({"generate": {"replicas": 100, "cpus": 2}})
    said = io.StringIO()
    generate.generate(SCRIPTED, None, prompts, None, None, replace(context(tmp_path, "a", wide), progress=Lines(said)))
    assert "of 100 replicas fit this cluster" in said.getvalue()
    assert len(ledger(tmp_path, "a", prompts)[0]) == 2


def test_the_pool_grows_under_load_and_shrinks_again(tmp_path: Path) -> None:
    """One row hangs until its engine is given up, so that all but one replica have nothing to do before the end."""
    units, hangs = 24, f"<<hang-once:{tmp_path / 'hung'}>>"
    prompts = prompts_of(tmp_path, [[hangs if u == units // 2 else f"{u}"] for u in range(units)])
    elastic = {"generate": {"replicas": [1, 3], "cpus": 1, "units_in_flight": 1}}
    slow = Teacher.model_validate({"kind": "scripted", "stall_s": 25, "scripted": {"delay_s": 1.5}})
    counted: list[int] = []
    done = threading.Event()

    def replicas() -> set[int]:
        found = set[int]()
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                found |= {child.pid} if "MapWorker" in " ".join(child.cmdline()) else set()
        return found

    others = replicas()  # of earlier tests, on their way out

    def count() -> None:
        while not done.wait(0.3) and len(list((tmp_path / "generate" / "a").glob("*.parquet"))) < units:
            counted.append(len(replicas() - others))

    watching = threading.Thread(target=count)
    watching.start()
    try:
        generate.generate(slow, None, prompts, None, None, context(tmp_path, "a", Compute.model_validate(elastic)))
    finally:
        done.set()
        watching.join()
    assert max(counted) == 3
    grown = counted.index(3)
    assert next(n for n in counted[:grown] if n) == 1
    assert min(counted[grown:]) <= 1  # none while the last one, which hung, is replaced
    assert len(ledger(tmp_path, "a", prompts)[0]) == units


def test_no_prompt_is_in_the_attempts(tmp_path: Path) -> None:
    prompts = prompts_of(tmp_path, [["secret question", "<<kill>>"]], reference=None)
    generate.generate(SCRIPTED, None, prompts, None, None, context(tmp_path, "a", max_error_rate=0.5))
    attempts = (tmp_path / "generate" / "a" / "attempts").glob("*")
    begun = [json.dumps(p.read_bytes().decode(errors="replace")) for p in attempts]
    assert begun
    assert not any("secret" in text for text in begun)
    assert ray.is_initialized()

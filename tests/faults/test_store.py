"""A store that fails in the middle of a run: the run ends with the reason, and the next one goes on."""

import os
import resource
from pathlib import Path

import pytest
from counting import KIND, calls
from fixtures_s3 import before_s3
from ledger import check
from runs import in_a_clean_process, run, units, write

from raystill.errors import Corrupted, StorageError
from raystill.stages import prepare

ASKED = {f"r{i}": f"question {i}" for i in range(60)}
LARGEST_FILE = 1500


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the teacher's calls are noted; units are of 16 rows at most."""
    monkeypatch.setattr(prepare, "UNIT_ROWS", 16)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return tmp_path / "calls"


def recipe_of(folder: Path, root: str = "") -> str:
    return write(folder, ASKED, root, f"{{kind: {KIND}}}", "{units_in_flight: 2}")


def test_expired_credentials_stop_the_run_at_once_and_the_next_goes_on(s3: str, tmp_path: Path, record: Path) -> None:
    recipe = recipe_of(tmp_path, f"{s3}/runs")
    run(recipe, "prepare")
    with before_s3() as proxy:
        proxy.faults = ["none"] * 20 + ["expired"] * 100
        with pytest.raises(StorageError, match=r"refused \(ExpiredToken\); check AWS_PROFILE") as stopped:
            run(recipe, "generate")
        assert len(proxy.faults) > 90  # what was in flight asked a few times more, and nothing was repeated
        assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(stopped.value)
        before = calls(record)
        assert 0 < before.total() < len(ASKED)
        proxy.faults = []
        run(recipe, "generate")
    assert check(f"{s3}/runs", ASKED).redone <= 2
    assert calls(record).total() <= len(ASKED) + 2 * prepare.UNIT_ROWS


def run_on_a_full_disk(recipe: str, record: str, said: str) -> None:
    os.environ["CALLS"] = record
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, resource.RLIM_INFINITY))
    try:
        run(recipe, "generate")
    except StorageError as e:
        Path(said).write_text(str(e))


def test_a_full_disk_is_said_and_after_it_is_freed_the_run_goes_on(tmp_path: Path, record: Path) -> None:
    recipe = recipe_of(tmp_path)
    run(recipe, "prepare")
    assert in_a_clean_process(run_on_a_full_disk, recipe, str(record), str(tmp_path / "said")) == 0
    assert "no space left while writing" in (tmp_path / "said").read_text()
    assert not units(tmp_path)
    assert not list((tmp_path / "runs" / "generate").rglob(".tmp-*"))
    run(recipe, "generate")
    check(f"{tmp_path}/runs", ASKED)


@pytest.mark.parametrize("left", [0, 0.5])
def test_a_damaged_unit_costs_only_itself(tmp_path: Path, record: Path, left: float) -> None:
    recipe = recipe_of(tmp_path)
    run(recipe, "prepare")
    run(recipe, "generate")
    (folder,) = (tmp_path / "runs" / "generate").iterdir()
    (folder / "manifest.json").unlink()  # as if the run had been killed before its last step
    damaged = sorted(folder.glob("*.parquet"))[0]
    data = damaged.read_bytes()
    damaged.write_bytes(data[: int(left * len(data))])
    with pytest.raises(Corrupted, match=f"{damaged.name} is damaged.*move this file away"):
        run(recipe, "generate")
    damaged.unlink()
    run(recipe, "generate")
    check(f"{tmp_path}/runs", ASKED)
    assert calls(record).total() <= len(ASKED) + prepare.UNIT_ROWS

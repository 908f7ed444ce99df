import errno
import json
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from fixtures_s3 import before_s3

from raystill import storage
from raystill.errors import StorageError
from raystill.training import checkpoints
from raystill.training.checkpoints import Layout
from raystill.training.saving import Saver

LAYOUT = Layout(1, 1)


@pytest.fixture(scope="module", autouse=True)
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    store = tmp_path_factory.mktemp("group") / "store"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def begin(saver: Saver, step: int, best: int | None = None) -> None:
    def write(folder: str) -> None:
        (Path(folder) / "state").mkdir()
        (Path(folder) / "state" / "shard.pt").write_bytes(b"weights of step %d" % step)

    saver.save(step, LAYOUT, {"epoch": 0}, [{"step": step}], best, write)


def save(url: str, step: int, attempt: str = "a") -> None:
    saver = Saver(url, attempt, print)
    begin(saver, step)
    assert saver.wait() is None


def only(url: str, step: int) -> Path:
    (folder,) = Path(url).glob(f"step-{step:08d}.*")
    return folder


def flip(shard: Path) -> None:
    shard.write_bytes(b"W" + shard.read_bytes()[1:])


def test_the_newest_is_found_with_its_state(tmp_path: Path) -> None:
    url = str(tmp_path)
    assert checkpoints.latest(url, print) is None
    save(url, 2)
    save(url, 10)
    found = checkpoints.latest(url, print)
    assert found is not None
    assert (found.step, found.state, found.curve) == (10, {"epoch": 0}, [{"step": 10}])
    assert (Path(checkpoints.fetch(url, found)) / "state/shard.pt").read_bytes() == b"weights of step 10"


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "manifest.json").write_text('{"name": "st'),
        lambda folder: (folder / "state/shard.pt").unlink(),
        lambda folder: (folder / "state/shard.pt").write_bytes(b"weights"),
        lambda folder: flip(folder / "state/shard.pt"),
    ],
    ids=["no manifest", "half a manifest", "no shard", "truncated shard", "flipped bit"],
)
def test_a_damaged_one_is_passed_over_and_said(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    url, said = str(tmp_path), []
    save(url, 2)
    save(url, 4)
    damage(only(url, 4))
    found = checkpoints.latest(url, said.append)
    assert found is not None and found.step == 2
    assert len(said) == 1 and "step-00000004" in said[0]


def test_a_step_saved_again_after_damage_counts(tmp_path: Path) -> None:
    url = str(tmp_path)
    save(url, 4)
    flip(only(url, 4) / "state/shard.pt")
    save(url, 4)
    found = checkpoints.latest(url, lambda _: None)
    assert found is not None and found.step == 4


def test_old_ones_of_this_attempt_go_and_those_of_others_stay(tmp_path: Path) -> None:
    url = str(tmp_path)
    save(url, 1, "b")
    for step in (1, 2, 3, 4):
        save(url, step, "a")
    names = sorted(".".join(p.name.split(".")[:2]) for p in tmp_path.iterdir())
    assert names == ["step-00000001.b", "step-00000003.a", "step-00000004.a"]
    checkpoints.forget(url, ["a"])
    assert [p.name.split(".")[1] for p in tmp_path.iterdir()] == ["b"]


def test_the_best_one_stays_until_another_is_better(tmp_path: Path) -> None:
    saver = Saver(str(tmp_path), "a", print)
    for step, best, kept in ((1, 1, [1]), (2, 1, [1, 2]), (3, 1, [1, 2, 3]), (4, 1, [1, 3, 4]), (5, 5, [4, 5])):
        begin(saver, step, best)
        assert saver.wait() is None
        assert sorted(map(checkpoints.step_of, checkpoints.names(str(tmp_path)))) == kept
    found = checkpoints.latest(str(tmp_path), print, 4)
    assert found is not None and found.step == 4
    assert checkpoints.latest(str(tmp_path), print, 1) is None


def full_by_torch(folder: str) -> None:
    """As torch says it when a disk is full."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    try:
        torch.save(torch.zeros(1000), f"{folder}/shard.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def full_by_python(folder: str) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("write", [full_by_torch, full_by_python])
def test_a_full_disk_is_said_with_where(tmp_path: Path, write: Callable[[str], None]) -> None:
    with pytest.raises(StorageError, match=rf"after step 3 cannot be written to {tmp_path}.*free space"):
        Saver(str(tmp_path), "a", print).save(3, LAYOUT, {}, [], None, write)


def test_a_lost_peer_is_no_full_disk(tmp_path: Path) -> None:
    def write(folder: str) -> None:
        raise RuntimeError("Connection closed by peer")

    with pytest.raises(RuntimeError, match="closed by peer"):
        Saver(str(tmp_path), "a", print).save(3, LAYOUT, {}, [], None, write)


def test_training_goes_on_while_a_slow_store_takes_a_checkpoint(s3: str) -> None:
    url = storage.join(s3, "work/checkpoints")
    with before_s3() as proxy:
        saver = Saver(url, "a", print)
        proxy.wait_s = 0.5
        begin(saver, 2)
        returned = time.monotonic()
        begin(saver, 4)  # one is on its way at most
        assert time.monotonic() - returned > proxy.wait_s
        proxy.wait_s = 0.0
        found = checkpoints.latest(url, print)
        assert found is not None and found.step == 2
        assert saver.wait() is None
    assert {checkpoints.step_of(name) for name in checkpoints.names(url)} == {2, 4}


def test_a_store_that_refuses_an_upload_costs_that_checkpoint_alone(s3: str) -> None:
    url, said = storage.join(s3, "work/checkpoints"), []
    with before_s3() as proxy:
        saver = Saver(url, "a", said.append)
        for step in (2, 4, 6, 8, 10):
            proxy.faults = ["403"] if step in (6, 8) else []
            begin(saver, step)
            assert ("AccessDenied" in (saver.wait() or "")) == (step in (6, 8))
            found = checkpoints.latest(url, lambda _: None)
            assert found is not None and found.step == {6: 4, 8: 4}.get(step, step)
    assert ["after step 6" in line or "after step 8" in line for line in said] == [True, True]
    assert {checkpoints.step_of(name) for name in checkpoints.names(url)} == {4, 10}


def test_on_s3(s3: str) -> None:
    url, said = storage.join(s3, "work/checkpoints"), []
    save(url, 2)
    save(url, 4)
    newest = checkpoints.latest(url, said.append)
    assert newest is not None and newest.step == 4
    shard = storage.join(url, newest.name, "state/shard.pt")
    assert (Path(checkpoints.fetch(url, newest)) / "state/shard.pt").read_bytes() == storage.read(shard)
    checkpoints.release(url, newest)
    storage.write(shard, b"torn")
    found = checkpoints.latest(url, said.append)
    assert found is not None and found.step == 2 and newest.name in said[0]
    checkpoints.release(url, found)
    manifest = json.loads(storage.read(storage.join(url, found.name, "manifest.json")))
    assert manifest["files"][0]["path"] == "state/shard.pt"

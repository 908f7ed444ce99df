import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch.distributed as dist

from raystill import storage
from raystill.errors import ResourceError
from raystill.training import checkpoints
from raystill.training.checkpoints import Layout

LAYOUT = Layout(1, 1)


@pytest.fixture(scope="module", autouse=True)
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    store = tmp_path_factory.mktemp("group") / "store"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def save(url: str, step: int, attempt: str = "a") -> None:
    def write(folder: str) -> None:
        (Path(folder) / "state").mkdir()
        (Path(folder) / "state" / "shard.pt").write_bytes(b"weights of step %d" % step)

    checkpoints.save(url, attempt, step, LAYOUT, {"epoch": 0}, [{"step": step}], write)


def only(url: str, step: int) -> Path:
    (folder,) = Path(url).glob(f"step-{step:08d}.*")
    return folder


def flip(shard: Path) -> None:
    shard.write_bytes(b"W" + shard.read_bytes()[1:])


def test_the_newest_is_found_with_its_state(tmp_path: Path) -> None:
    url = str(tmp_path)
    assert checkpoints.latest(url, LAYOUT, print) is None
    save(url, 2)
    save(url, 10)
    found = checkpoints.latest(url, LAYOUT, print)
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
    found = checkpoints.latest(url, LAYOUT, said.append)
    assert found is not None and found.step == 2
    assert len(said) == 1 and "step-00000004" in said[0]


def test_a_step_saved_again_after_damage_counts(tmp_path: Path) -> None:
    url = str(tmp_path)
    save(url, 4)
    flip(only(url, 4) / "state/shard.pt")
    save(url, 4)
    found = checkpoints.latest(url, LAYOUT, lambda _: None)
    assert found is not None and found.step == 4


def test_another_layout_is_refused_with_what_to_set(tmp_path: Path) -> None:
    save(str(tmp_path), 2)
    with pytest.raises(ResourceError, match=r"compute\.train\.workers: 1 and compute\.train\.zero: 1"):
        checkpoints.latest(str(tmp_path), Layout(2, 1), print)


def test_old_ones_of_this_attempt_go_and_those_of_others_stay(tmp_path: Path) -> None:
    url = str(tmp_path)
    save(url, 1, "b")
    for step in (1, 2, 3, 4):
        save(url, step, "a")
    names = sorted(".".join(p.name.split(".")[:2]) for p in tmp_path.iterdir())
    assert names == ["step-00000001.b", "step-00000003.a", "step-00000004.a"]
    checkpoints.forget(url, ["a"])
    assert [p.name.split(".")[1] for p in tmp_path.iterdir()] == ["b"]


def test_on_s3(s3: str) -> None:
    url, said = storage.join(s3, "work/checkpoints"), []
    save(url, 2)
    save(url, 4)
    newest = checkpoints.latest(url, LAYOUT, said.append)
    assert newest is not None and newest.step == 4
    shard = storage.join(url, newest.name, "state/shard.pt")
    assert (Path(checkpoints.fetch(url, newest)) / "state/shard.pt").read_bytes() == storage.read(shard)
    checkpoints.release(url, newest)
    storage.write(shard, b"torn")
    found = checkpoints.latest(url, LAYOUT, said.append)
    assert found is not None and found.step == 2 and newest.name in said[0]
    checkpoints.release(url, found)
    manifest = json.loads(storage.read(storage.join(url, found.name, "manifest.json")))
    assert manifest["files"][0]["path"] == "state/shard.pt"

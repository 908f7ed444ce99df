"""storage on a real S3 protocol server, also behind a proxy that answers 503, loses answers and forbids."""

import multiprocessing
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures_s3 import Proxy, before_s3

from raystill import formats, storage
from raystill.errors import StorageError


@pytest.fixture
def faulty(s3: str) -> Iterator[Proxy]:
    with before_s3() as proxy:
        yield proxy


def test_objects_are_written_listed_read_and_removed(s3: str) -> None:
    url = storage.join(s3, "a", "object")
    storage.write(url, b"one")
    storage.write(url, b"two")
    assert storage.exists(url)
    assert not storage.exists(storage.join(s3, "a", "obj"))
    assert [(e.url, e.size) for e in storage.entries(s3)] == [(url, 3)]
    assert storage.read(url) == b"two"
    with storage.open_read(url) as stream:
        assert stream.read() == b"two"
    storage.remove(url)
    assert storage.entries(s3) == []


def test_a_second_writer_loses(s3: str) -> None:
    url = storage.join(s3, "object")
    assert storage.put_if_absent(url, b"first")
    assert not storage.put_if_absent(url, b"second")
    assert storage.put_if_absent(url, b"first")
    assert storage.read(url) == b"first"
    storage.probe(s3)


def test_a_store_that_lets_a_second_writer_through_is_refused(faulty: Proxy, s3: str) -> None:
    faulty.blind = True
    with pytest.raises(
        StorageError, match=r"lets a second writer replace an object.*use a store with conditional writes"
    ):
        storage.probe(s3)


def test_folders_go_up_and_come_down_whole(s3: str, tmp_path: Path) -> None:
    (tmp_path / "model" / "deep").mkdir(parents=True)
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "deep" / "weights").write_bytes(b"w" * 1000)
    storage.upload(tmp_path / "model", storage.join(s3, "model"))
    down = storage.download(storage.join(s3, "model"), tmp_path / "copy")
    assert (down / "deep" / "weights").read_bytes() == b"w" * 1000
    without = storage.download(storage.join(s3, "model"), tmp_path / "papers", but="weights")
    assert [p.name for p in without.rglob("*") if p.is_file()] == ["config.json"]
    with pytest.raises(StorageError, match="holds nothing"):
        storage.download(storage.join(s3, "none"), tmp_path / "other")


def test_a_burst_of_503_passes(faulty: Proxy, s3: str) -> None:
    url = storage.join(s3, "object")
    faulty.faults = ["503", "503", "503"]
    assert storage.put_if_absent(url, b"data")
    faulty.faults = ["503", "503"]
    assert storage.read(url) == b"data"


def test_a_lost_answer_is_no_lost_object(faulty: Proxy, s3: str) -> None:
    url = storage.join(s3, "object")
    faulty.faults = ["lost"]
    assert storage.put_if_absent(url, b"ours")
    faulty.faults = ["lost"]
    assert not storage.put_if_absent(url, b"theirs")
    assert storage.read(url) == b"ours"


def test_a_body_that_is_cut_or_drips_comes_whole(faulty: Proxy, s3: str) -> None:
    url, data = storage.join(s3, "object"), bytes(range(256)) * 40
    storage.write(url, data)
    faulty.faults = ["cut", "cut", "slow"]
    assert storage.read(url) == data
    assert not faulty.faults


def test_a_body_that_is_always_cut_is_never_taken_for_a_whole_one(faulty: Proxy, s3: str) -> None:
    url = storage.join(s3, "rows.jsonl")
    storage.write(url, b'{"prompt": "a"}\n' * 1000)
    faulty.faults = ["cut"] * 20
    with pytest.raises(StorageError, match=r"rows\.jsonl"):
        storage.read(url)
    with pytest.raises(StorageError, match=r"rows\.jsonl"):
        list(formats.read_file(url, 1000))


def test_a_store_that_does_not_answer_is_asked_again(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "READ_TIMEOUT_S", 0.3)
    url = storage.join(s3, "object")
    with before_s3() as faulty:
        faulty.hang_s = 1.0
        faulty.faults = ["hang", "hang"]
        assert storage.put_if_absent(url, b"data")
        faulty.faults = ["hang"]
        assert storage.read(url) == b"data"


def test_an_upload_that_dies_half_way_shows_nothing(faulty: Proxy, s3: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"w" * (20 << 20))
    faulty.faults = ["none", "none", "hang"]  # the upload is begun and one part is up
    uploading = multiprocessing.get_context("spawn").Process(
        target=storage.upload, args=(tmp_path / "model", storage.join(s3, "model"))
    )
    uploading.start()
    while "hang" in faulty.faults:
        assert uploading.is_alive()
        time.sleep(0.05)
    uploading.kill()
    uploading.join()
    faulty.faults = []
    assert storage.entries(s3) == []
    storage.upload(tmp_path / "model", storage.join(s3, "model"))
    assert [e.size for e in storage.entries(s3)] == [20 << 20]


def test_a_forbidden_bucket_says_what_to_check(faulty: Proxy, s3: str) -> None:
    faulty.faults = ["403"]
    with pytest.raises(StorageError, match=r"refused.*AWS_PROFILE"):
        storage.put_if_absent(storage.join(s3, "object"), b"x")


def test_a_missing_bucket_says_how_to_make_it(s3: str) -> None:
    with pytest.raises(StorageError, match="bucket 'nowhere' does not exist; create it: aws s3 mb s3://nowhere"):
        storage.put_if_absent("s3://nowhere/object", b"x")
    with pytest.raises(StorageError, match="'nowhere' does not exist"):
        storage.entries("s3://nowhere/a")


def test_a_missing_object_says_so(s3: str) -> None:
    with pytest.raises(StorageError, match="does not exist; check the address"):
        storage.read(storage.join(s3, "nothing"))


STAGE = (
    "import sys; from pathlib import Path; from raystill.artifacts import Checkpoint; print('ready', flush=True); "
    "sys.stdin.read(1); print(Checkpoint(sys.argv[1], 'f1').folder(Path(sys.argv[2])), flush=True)"
)


def staging(url: str, cache: Path) -> subprocess.Popen[str]:
    """A process that is about to stage a model, once it is told to."""
    code = [sys.executable, "-c", STAGE, url, str(cache)]
    made = subprocess.Popen(code, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert made.stdout is not None and made.stdout.readline() == "ready\n"
    return made


def test_replicas_that_start_together_fetch_each_file_once(faulty: Proxy, s3: str, tmp_path: Path) -> None:
    url, cache = storage.join(s3, "model"), tmp_path / "cache"
    for name in ("config.json", "model.safetensors", "tokenizer/tokenizer.json"):
        storage.write(storage.join(url, name), name.encode() * 1000)
    faulty.wait_s = 0.2
    asked = [staging(url, cache) for _ in range(3)]
    killed = staging(url, cache)
    assert killed.stdin is not None
    killed.stdin.write("g")
    killed.stdin.flush()
    while not any(path.endswith("config.json") for path in faulty.fetched):
        assert killed.poll() is None
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    faulty.fetched.clear()

    for one in asked:
        assert one.stdin is not None
        one.stdin.write("g")
        one.stdin.flush()
    folders = {one.communicate()[0].strip() for one in asked}
    assert folders == {str(cache / "f1")}
    fetched = Counter(path.rpartition("/")[2] for path in faulty.fetched)
    assert fetched["config.json"] == fetched["model.safetensors"] == fetched["tokenizer.json"] == 1
    files = {p.relative_to(cache / "f1").as_posix() for p in (cache / "f1").rglob("*") if p.is_file()}
    assert files == {"config.json", "model.safetensors", "tokenizer/tokenizer.json"}
    assert [p.name for p in cache.iterdir() if p.name.startswith(".tmp")] == []

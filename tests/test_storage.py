"""storage on local disk: whole objects, one winner, clear errors."""

import errno
import threading
from pathlib import Path

import pytest

from raystill import storage
from raystill.errors import StorageError


def test_a_second_writer_loses_and_the_first_object_stays(tmp_path: Path) -> None:
    url = str(tmp_path / "a" / "object")
    assert storage.put_if_absent(url, b"first")
    assert not storage.put_if_absent(url, b"second")
    assert storage.read(url) == b"first"


def test_putting_equal_content_again_counts_as_ours(tmp_path: Path) -> None:
    url = str(tmp_path / "object")
    assert storage.put_if_absent(url, b"same")
    assert storage.put_if_absent(url, b"same")


def test_of_many_threads_exactly_one_wins(tmp_path: Path) -> None:
    url = str(tmp_path / "object")
    won: list[int] = []
    barrier = threading.Barrier(16)

    def put(i: int) -> None:
        barrier.wait()
        if storage.put_if_absent(url, str(i).encode()):
            won.append(i)

    threads = [threading.Thread(target=put, args=(i,)) for i in range(16)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(won) == 1
    assert storage.read(url) == str(won[0]).encode()


def test_nothing_but_finished_objects_is_listed(tmp_path: Path) -> None:
    storage.put_if_absent(str(tmp_path / "b"), b"2")
    storage.put_if_absent(str(tmp_path / "deep" / "a"), b"1")
    (tmp_path / ".tmp-left-by-a-crash").write_bytes(b"half")
    assert [e.url for e in storage.entries(str(tmp_path))] == [str(tmp_path / "b"), str(tmp_path / "deep" / "a")]


def test_a_missing_object_says_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="does not exist; check the path"):
        storage.read(str(tmp_path / "nothing"))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def full(_: int) -> None:
        raise OSError(code, "full")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="no space left"):
        storage.put_if_absent(str(tmp_path / "object"), b"data")
    assert list(tmp_path.iterdir()) == []


def test_the_probe_accepts_a_local_disk_again_and_again(tmp_path: Path) -> None:
    for _ in range(2):
        storage.probe(str(tmp_path))
    assert [entry.url for entry in storage.entries(str(tmp_path))] == [str(tmp_path / ".probe")]


def test_the_probe_refuses_a_store_that_replaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def replace(url: str, data: bytes) -> bool:
        storage.write(url, data)
        return True

    monkeypatch.setattr(storage, "put_if_absent", replace)
    with pytest.raises(StorageError, match="second writer"):
        storage.probe(str(tmp_path))

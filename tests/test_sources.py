"""sources: what a path names, its identity, and clear words where it names nothing."""

import json
from pathlib import Path
from typing import Any

import pytest

from raystill import sources, storage
from raystill.errors import DataError
from raystill.formats import Found, Rejected

CAP = 1 << 20


def put(path: Path, *rows: dict[str, Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(paths: str | list[str]) -> list[Found | Rejected]:
    return list(sources.read(paths, "train", CAP))


def values(paths: str | list[str]) -> list[dict[str, Any]]:
    return [row.values for row in read(paths) if isinstance(row, Found)]


def test_a_folder_a_glob_and_a_list_name_files_in_order(tmp_path: Path) -> None:
    a, b = put(tmp_path / "a.jsonl", {"n": 1}), put(tmp_path / "sub" / "b.jsonl", {"n": 2})
    (tmp_path / "README.md").write_text("not data")
    assert sources.find(str(tmp_path)) == [a, b]
    assert sources.find(f"{tmp_path}/**/*.jsonl") == [a, b]
    assert sources.find(f"{tmp_path}/*.jsonl") == [a]
    assert [row["n"] for row in values([b, a])] == [2, 1]


def test_a_file_with_glob_characters_in_its_name_is_found(tmp_path: Path) -> None:
    file = put(tmp_path / "a[1].jsonl", {"n": 1})
    assert sources.find(file) == [file]


def test_a_missing_file_lists_near_names(tmp_path: Path) -> None:
    put(tmp_path / "support.jsonl", {})
    with pytest.raises(DataError, match=r"does not exist; near it: support\.jsonl"):
        sources.find(str(tmp_path / "suport.jsonl"))
    with pytest.raises(DataError, match="there is no folder"):
        sources.find(str(tmp_path / "nowhere" / "x.jsonl"))


@pytest.mark.parametrize("name", ["data.txt", "data", "data.parquet.gz"])
def test_a_file_of_unknown_format_is_refused_with_what_to_do(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DataError, match=r"rename it|unpack it"):
        read(str(tmp_path / name))


@pytest.mark.parametrize("pattern", ["*.jsonl", ""])
def test_a_glob_or_folder_without_data_is_refused(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(DataError, match=r"no file matches|holds no data file"):
        sources.find(str(tmp_path / pattern))


def test_identity_is_content_and_is_remembered(tmp_path: Path) -> None:
    file, root = put(tmp_path / "a.jsonl", {"n": 1}), str(tmp_path / "runs")
    first = sources.identify(file, root)
    assert first == {file: storage.sha256_file(Path(file))}
    cache = Path(root) / sources.IDENTITIES
    known = json.loads(cache.read_text())
    assert list(known.values()) == [first[file]]
    cache.write_text(json.dumps(dict.fromkeys(known, "remembered")))
    assert sources.identify(file, root) == {file: "remembered"}
    put(tmp_path / "a.jsonl", {"n": 2}, {"n": 3})
    assert sources.identify(file, root)[file] not in (first[file], "remembered")


@pytest.mark.parametrize("damage", ["", "[]", "{", "null"])
def test_a_damaged_identity_cache_only_costs_time(tmp_path: Path, damage: str) -> None:
    file = put(tmp_path / "a.jsonl", {"n": 1})
    (tmp_path / sources.IDENTITIES).write_text(damage)
    assert sources.identify(file, str(tmp_path)) == {file: storage.sha256_file(Path(file))}


def test_identity_offline_of_what_is_remote_is_unresolved(tmp_path: Path) -> None:
    paths = ["s3://bucket/a.jsonl", "owner/name", "owner/name:config"]
    assert sources.identify(paths, str(tmp_path), offline=True) == dict.fromkeys(paths)


def test_what_is_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    assert sources.is_hub_id("owner/name") and sources.is_hub_id("owner/name:config")
    assert not any(map(sources.is_hub_id, ["data/train", "owner/a.jsonl", "a", "/owner/name", "s3://owner/name"]))


def test_a_hub_that_cannot_be_reached_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import huggingface_hub.constants

    # As HF_HUB_OFFLINE=1 does, which both read only once, when they are imported.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="hub cannot be reached"):
        read("owner/name-that-is-nowhere")
    with pytest.raises(DataError, match="hub cannot be reached"):
        sources.identify("owner/name-that-is-nowhere", str(tmp_path))


def test_a_hub_data_set_is_read_without_its_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    asked: list[Any] = []

    def load(name: str, config: str | None, *, split: str) -> datasets.Dataset:
        asked.append((name, config, split))
        return datasets.Dataset.from_dict(
            {"text": ["a", "b"], "picture": [b"\1", b"\2"], "turns": [[{"role": "user"}]] * 2}
        )

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert values("owner/name:config") == [{"text": t, "turns": [{"role": "user"}]} for t in "ab"]
    assert asked == [("owner/name", "config", "train")]


def test_s3_is_read_by_object_folder_and_glob(s3: str, tmp_path: Path) -> None:
    for name, row in {"in/a.jsonl": b'{"n":1}\n', "in/deep/b.jsonl": b'{"n":2}\n', "in/c.txt": b"no"}.items():
        storage.put_if_absent(f"{s3}/{name}", row)
    a, b = f"{s3}/in/a.jsonl", f"{s3}/in/deep/b.jsonl"
    assert sources.find(a) == [a]
    assert sources.find(f"{s3}/in") == sources.find(f"{s3}/in/") == [a, b]
    assert sources.find(f"{s3}/in/*.jsonl") == [a]
    assert sources.find(f"{s3}/in/**/*.jsonl") == [a, b]
    assert [row["n"] for row in values(f"{s3}/in")] == [1, 2]
    with pytest.raises(DataError, match=r"near it: a\.jsonl"):
        sources.find(f"{s3}/in/aa.jsonl")
    identity = sources.identify(a, str(tmp_path))
    assert list(identity) == [a] and identity[a] is not None and identity[a].endswith("-8")


def test_s3_objects_may_be_packed_or_parquet(s3: str) -> None:
    import gzip
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.table({"n": [1, 2]}), sink)
    storage.put_if_absent(f"{s3}/a.parquet", sink.getvalue())
    storage.put_if_absent(f"{s3}/b.jsonl.gz", gzip.compress(b'{"n": 3}\n' * 1000))
    assert len(values(s3)) == 1002

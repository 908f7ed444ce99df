"""artifacts: addressed by what decides them, committed last, checked when read."""

from pathlib import Path

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raystill import artifacts
from raystill.artifacts import Checkpoint, Manifest, Table
from raystill.errors import Corrupted
from raystill.records import Message, Prompt


def prompt(i: int, split: str = "train") -> Prompt:
    return Prompt(f"row-{i}", None, [Message("user", f"question {i}")], None, "conversation", "f", split, None, "{}")


def table(url: str, *parts: artifacts.File) -> Table:
    return artifacts.commit(Table, url, Manifest("prompts", 1, "prepare", 1, "abc", {}, {}, list(parts)))


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    rows = [prompt(i) for i in range(3)]
    made = table(str(tmp_path), artifacts.write_part(str(tmp_path), "train", Prompt, rows))
    assert list(made.rows(Prompt)) == rows


def test_one_split_is_read_alone(tmp_path: Path) -> None:
    url = str(tmp_path)
    parts = [artifacts.write_part(url, s, Prompt, [prompt(i, s)]) for i, s in enumerate(("train", "test"))]
    assert [r.id for r in table(url, *parts).rows(Prompt, "test")] == ["row-1"]


def test_a_table_opens_with_datasets(tmp_path: Path) -> None:
    artifacts.write_part(str(tmp_path), "train", Prompt, [prompt(1), prompt(2)])
    loaded = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "*.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded["id"][:] == ["row-1", "row-2"]
    assert loaded[0]["messages"][0]["content"] == "question 1"


def test_there_is_no_artifact_before_its_manifest(tmp_path: Path) -> None:
    artifacts.write_part(str(tmp_path), "train", Prompt, [prompt(1)])
    assert artifacts.load(Table, str(tmp_path)) is None


def test_the_first_commit_wins(tmp_path: Path) -> None:
    url = str(tmp_path)
    first = table(url, artifacts.write_part(url, "train", Prompt, [prompt(1)]))
    second = table(url, artifacts.write_part(url, "train", Prompt, [prompt(2)]))
    assert second.manifest == first.manifest


@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
def test_one_flipped_bit_is_found(tmp_path: Path, at: float) -> None:
    part = artifacts.write_part(str(tmp_path), "train", Prompt, [prompt(i) for i in range(50)])
    made = table(str(tmp_path), part)
    data = bytearray((tmp_path / part.path).read_bytes())
    data[int(at * len(data))] ^= 1
    (tmp_path / part.path).write_bytes(data)
    with pytest.raises(Corrupted, match="checksum"):
        list(made.rows(Prompt))


def test_a_damaged_manifest_says_so(tmp_path: Path) -> None:
    table(str(tmp_path), artifacts.write_part(str(tmp_path), "train", Prompt, [prompt(1)]))
    (tmp_path / artifacts.MANIFEST).write_text('{"kind": "prom')
    with pytest.raises(Corrupted, match="damaged"):
        artifacts.load(Table, str(tmp_path))


def test_other_columns_are_refused(tmp_path: Path) -> None:
    part = artifacts.write_part(str(tmp_path), "train", Prompt, [prompt(1)])
    from raystill.records import Example

    with pytest.raises(Corrupted, match="other columns"):
        list(table(str(tmp_path), part).rows(Example))


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.booleans(), max_size=4))
def test_a_fingerprint_does_not_depend_on_key_order(config: dict[str, object]) -> None:
    backwards = dict(reversed(config.items()))
    assert artifacts.fingerprint("s", 1, config, {}) == artifacts.fingerprint("s", 1, backwards, {})


def test_a_fingerprint_depends_on_every_part() -> None:
    prints = {
        artifacts.fingerprint("a", 1, {"x": 1}, {"i": "f"}),
        artifacts.fingerprint("b", 1, {"x": 1}, {"i": "f"}),
        artifacts.fingerprint("a", 2, {"x": 1}, {"i": "f"}),
        artifacts.fingerprint("a", 1, {"x": 2}, {"i": "f"}),
        artifacts.fingerprint("a", 1, {"x": 1}, {"i": "g"}),
    }
    assert len(prints) == 5


def test_what_has_no_stable_form_is_refused() -> None:
    with pytest.raises(TypeError):
        artifacts.fingerprint("a", 1, {"x": object()}, {})


def test_a_trained_model_lies_in_its_attempts_folder() -> None:
    manifest = Manifest("model", 1, "train", 1, "abc", {}, {}, [], facts={"folder": "attempt-1"})
    assert Checkpoint("runs/train/abc", "abc", manifest).folder() == "runs/train/abc/attempt-1"

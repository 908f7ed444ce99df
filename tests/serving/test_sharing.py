"""Which engines host which models, from what lies in their folders."""

import json
from pathlib import Path
from typing import Any

import pytest

from raystill.artifacts import ADAPTER, Checkpoint, Manifest
from raystill.errors import RecipeError
from raystill.recipe import Serve
from raystill.serving.sharing import hosts

SHARED = Serve(adapters=True)


def student(folder: Path, base: str, rank: int = 16, quantize: str | None = None) -> Checkpoint:
    """A model trained with LoRA, as train leaves it: an adapter beside merged weights."""
    adapter = folder / "attempt" / ADAPTER
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text(json.dumps({"r": rank, "base_model_name_or_path": base}))
    config = {"train": {"lora": {"quantize": quantize}}}
    manifest = Manifest("model", 1, "train", 1, folder.name, config, {}, [], {}, {"folder": "attempt"}, {})
    return Checkpoint(str(folder), folder.name, manifest)


def of(models: dict[str, Checkpoint], config: Serve = SHARED, **own: dict[str, Any]) -> list[Any]:
    return hosts(models, {name: {"max_model_len": 64, **own.get(name, {})} for name in models}, config)


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Checkpoint]:
    base = Checkpoint("org/base", "b")
    return {
        "teacher": Checkpoint("org/teacher", "t"),
        "small-baseline": base,
        "small": student(tmp_path / "small", "org/base"),
        "large-baseline": base,
        "large": student(tmp_path / "large", "org/base", rank=40),
    }


def test_without_the_key_each_model_has_its_engine(models: dict[str, Checkpoint]) -> None:
    assert [host.names() for host in of(models, Serve())] == [[name] for name in models]


def test_students_of_one_base_are_adapters_over_its_engine(models: dict[str, Checkpoint]) -> None:
    teacher, base = of(models)
    assert teacher.names() == ["teacher"]
    assert base.names() == ["small-baseline", "large-baseline", "small", "large"]
    assert base.adapters["small"].url == str(Path(models["small"].url, "attempt", ADAPTER))
    assert base.engine == {"max_model_len": 64, "enable_lora": True, "max_loras": 2, "max_lora_rank": 64}


def test_the_order_of_models_changes_nothing(models: dict[str, Checkpoint]) -> None:
    turned = dict(reversed(models.items()))
    assert {frozenset(host.names()) for host in of(turned)} == {frozenset(host.names()) for host in of(models)}


@pytest.mark.parametrize("why", ["another base", "4 bits", "too wide", "own arguments", "its base is not hosted"])
def test_a_student_that_would_answer_otherwise_keeps_its_merged_weights(
    tmp_path: Path, models: dict[str, Checkpoint], why: str
) -> None:
    odd = {
        "another base": student(tmp_path / "odd", "runs/train/round-1"),
        "4 bits": student(tmp_path / "odd4", "org/base", quantize="nf4"),
        "too wide": student(tmp_path / "oddw", "org/base", rank=600),
        "own arguments": models["small"],
        "its base is not hosted": models["small"],
    }[why]
    beside = {"teacher": models["teacher"]} if "not hosted" in why else models
    own = {"odd": {"dtype": "float32"}} if why == "own arguments" else {}
    assert ["odd"] in [host.names() for host in of({**beside, "odd": odd}, **own)]


def test_a_model_without_an_engine_of_its_own_has_no_number_of_them(models: dict[str, Checkpoint]) -> None:
    with pytest.raises(RecipeError, match=r"write serve\.replicas\.small-baseline instead"):
        of(models, Serve(adapters=True, replicas={"large": 2}))

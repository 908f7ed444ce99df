"""A stage that is made elsewhere: by whom, and what counts."""

import io
import threading
from pathlib import Path

import pytest

from raystill import artifacts, engine, provenance, session
from raystill.artifacts import Checkpoint, Manifest, Outcome
from raystill.context import Context
from raystill.errors import StageError
from raystill.placement import Shape
from raystill.recipe import Recipe
from raystill.steps import Runner, Step
from raystill.view import Lines


def never(*_: object) -> Outcome:
    raise AssertionError("made here")


def step(ray: bool = True) -> Step[Checkpoint]:
    return Step("train student", "train", 1, {}, {}, Checkpoint, never, ray)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    student = {"model": "a/b"}
    values = {"name": "n", "task": "conversation", "data": {"train": "x"}, "teacher": {"kind": "reference"}}
    return Recipe.model_validate({**values, "student": student, "root": str(tmp_path / "root")})


def test_its_cluster_makes_the_artifact_and_the_runner_only_loads_it(recipe: Recipe, tmp_path: Path) -> None:
    asked: list[str] = []

    def elsewhere(stage: str) -> None:
        asked.append(stage)
        url = step().url(recipe.root)
        artifacts.commit(Checkpoint, url, Manifest("model", 1, "train", 1, step().fingerprint, {}, {}, [], {}, {}, {}))

    do = Runner(recipe, Lines(io.StringIO()), threading.Event(), never, tmp_path, elsewhere=elsewhere)
    made = do(step())
    assert made.url == step().url(recipe.root)
    assert do(step()) == made
    assert asked == ["train"]


def test_a_cluster_that_ended_without_the_artifact_is_a_failure(recipe: Recipe, tmp_path: Path) -> None:
    do = Runner(recipe, Lines(io.StringIO()), threading.Event(), never, tmp_path, elsewhere=lambda stage: None)
    with pytest.raises(StageError, match="'train student' ended, and its result is not at"):
        do(step())


def test_what_needs_no_ray_is_made_by_the_driver(recipe: Recipe, tmp_path: Path) -> None:
    made: list[Context] = []

    def here(context: Context) -> Outcome:
        made.append(context)
        return Outcome("model", [], 1, {}, {})

    do = Runner(recipe, Lines(io.StringIO()), threading.Event(), never, tmp_path, elsewhere=never)
    do(Step("initialize", "initialize", 1, {}, {}, Checkpoint, here))
    assert len(made) == 1


def test_a_driver_without_gpu_names_what_models_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(provenance.HARDWARE, "8 x NVIDIA-H200")
    provenance.hardware.cache_clear()
    try:
        assert provenance.hardware() == "8 x NVIDIA-H200"
        assert engine.on_cluster()
    finally:
        provenance.hardware.cache_clear()


def test_a_cluster_that_grows_is_not_bounded_by_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "nodes", lambda: [{"CPU": 16.0, "GPU": 2.0}])
    assert session.fit("generate replica", 16, Shape(4, 2)) == (1, False)
    monkeypatch.setenv(session.GROWS, "1")
    assert session.fit("generate replica", 16, Shape(4, 2)) == (16, False)

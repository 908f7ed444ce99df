"""Ctrl-C and SIGTERM: once finishes the current unit, twice stops at once, and afterwards all is as before."""

import contextlib
import io
import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from raystill import live
from raystill.context import Context
from raystill.errors import RecipeError, StageError
from raystill.live import _ctrl_c, models_of
from raystill.recipe import Recipe
from raystill.stages import serve
from raystill.view import view


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_is_graceful_and_the_second_at_once(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    stopping, out = threading.Event(), io.StringIO()
    with view(out) as progress, pytest.raises(KeyboardInterrupt), _ctrl_c(stopping, progress):
        signal.raise_signal(number)
        assert stopping.is_set()
        assert "again stops at once" in out.getvalue()
        signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_what_is_served_are_models_and_not_their_answers() -> None:
    values = {"name": "r", "task": "conversation", "data": {"train": "x"}, "teacher": {"model": "t"}}
    known = dict.fromkeys(["prepare", "teacher", "baseline", "student", "answers/baseline", "load/student"], "u")
    single = Recipe.model_validate(values | {"student": {"model": "s"}})
    assert list(models_of(single, known)) == ["teacher", "baseline", "student"]
    several = Recipe.model_validate(values | {"students": {"a": {"model": "s"}, "b": {"model": "s"}}})
    found = models_of(several, dict.fromkeys(["teacher", "a-baseline", "a", "answers/a", "answers/a-baseline"], "u"))
    assert list(found) == ["teacher", "a-baseline", "a"]


def test_followed_runs_change_what_is_hosted_and_a_failed_change_does_not_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, runs = tmp_path / "r.yaml", tmp_path / "runs" / "runs" / "r.json"
    values = {"name": "r", "task": "conversation", "data": {"train": "x"}, "teacher": {"model": "t"}}
    path.write_text(yaml.safe_dump(values | {"student": {"model": "s"}, "root": str(tmp_path / "runs")}))
    runs.parent.mkdir(parents=True)
    runs.write_text(json.dumps({"student": "first"}))
    tried: list[Any] = []

    @contextlib.contextmanager
    def served(_path: str, _recipe: Recipe, made: dict[str, str], *_more: Any) -> Iterator[Any]:
        assert made == {"student": "first"}
        runs.write_text(json.dumps({"student": "broken"}))
        yield serve.Endpoint("http://127.0.0.1:1", None, {"student": None}, [], 0.0)  # type: ignore[dict-item]

    def replace(endpoint: serve.Endpoint, models: dict[str, str], *_more: Any, **_own: Any) -> serve.Endpoint:
        tried.append(models["student"])
        if models["student"] == "broken":
            runs.write_text(json.dumps({"student": "second"}))
            raise StageError("student could not be served")
        signal.raise_signal(signal.SIGINT)
        return endpoint

    monkeypatch.setattr(live, "FOLLOW_S", 0.01)
    monkeypatch.setattr(
        live, "_hosting", lambda recipe, progress, _s: contextlib.nullcontext(context(recipe, progress))
    )
    monkeypatch.setattr(live, "_served", served)
    monkeypatch.setattr(live, "_checkpoints", lambda _recipe, made: (made, {}))
    monkeypatch.setattr(serve, "replace", replace)
    live.serve(str(path), 0, follow=True)
    assert tried == ["broken", "second"]


def context(recipe: Recipe, progress: Any) -> Context:
    return Context("", recipe.compute, progress, 0.05, Path())


def test_only_models_that_are_there_can_be_asked_for(tmp_path: Path) -> None:
    values = {"name": "r", "task": "conversation", "data": {"train": "x"}, "teacher": {"model": "t"}}
    recipe = Recipe.model_validate(values | {"student": {"model": "s"}, "root": str(tmp_path)})
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "r.json").write_text(json.dumps({"teacher": "a", "student": "b", "answers/student": "c"}))
    assert live._newest("r.yaml", recipe, []) == {"teacher": "a", "student": "b"}
    assert live._newest("r.yaml", recipe, ["student"]) == {"student": "b"}
    with pytest.raises(RecipeError, match="no model 'baseline'; there are: teacher, student"):
        live._newest("r.yaml", recipe, ["baseline"])

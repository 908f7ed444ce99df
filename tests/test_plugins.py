"""Plug-ins are found without being imported, and what is wrong is said in the user's words."""

import sys
from pathlib import Path

import pytest

from raystill import plugins
from raystill.errors import RecipeError

KINDS = {"empty": "raystill.filters.empty:empty"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def test_a_kind_is_loaded() -> None:
    assert plugins.load("empty", KINDS, "filter").__name__ == "empty"


def test_an_unknown_kind_names_the_nearest_or_lists_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"'emtpy' is no filter; did you mean 'empty'\?"):
        plugins.find("emtpy", KINDS, "filter")
    with pytest.raises(RecipeError, match="'nothing alike' is no filter; known are empty"):
        plugins.find("nothing alike", KINDS, "filter")


def test_own_code_is_identified_by_its_source(folder: Path) -> None:
    (folder / "own_plugin_z.py").write_text("def keep(rows, rules):\n    return [None]\n")
    before = plugins.identity("own_plugin_z:keep", KINDS, "filter")
    (folder / "own_plugin_z.py").write_text("def keep(rows, rules):\n    return ['no']\n")
    assert plugins.identity("empty", KINDS, "filter") == "empty"
    assert before.startswith("own_plugin_z:keep@") and before != plugins.identity("own_plugin_z:keep", KINDS, "filter")


def test_own_code_beside_the_recipe_is_loaded(folder: Path) -> None:
    (folder / "own_plugin_a.py").write_text("def keep(rows, rules):\n    return [None] * len(rows)\n")
    assert plugins.load("own_plugin_a:keep", KINDS, "filter")([1, 2], None) == [None, None]
    assert plugins.source_file("own_plugin_a:keep", KINDS, "filter") == folder / "own_plugin_a.py"
    assert plugins.source_file("empty", KINDS, "filter") is None


def test_find_does_not_import(folder: Path) -> None:
    (folder / "own_plugin_b.py").write_text("raise SystemExit('imported')\nkeep = 1\n")
    assert plugins.find("own_plugin_b:keep", KINDS, "filter") == ("own_plugin_b", "keep")


@pytest.mark.parametrize(
    ("source", "spec", "said"),
    [
        ("keep = 1", "own_plugin_c:kep", "own_plugin_c.py has no 'kep'"),
        ("def broken(:", "own_plugin_c:keep", "own_plugin_c.py:1 is no valid Python"),
        ("keep = 1", "own_plugin_absent:keep", "there is no module own_plugin_absent"),
        ("keep = 1", "own_plugin_absent.inner:keep", "there is no module own_plugin_absent.inner"),
    ],
)
def test_what_is_wrong_with_own_code_is_said(folder: Path, source: str, spec: str, said: str) -> None:
    (folder / "own_plugin_c.py").write_text(source)
    with pytest.raises(RecipeError, match=said):
        plugins.find(spec, KINDS, "filter")


def test_a_missing_requirement_of_own_code_is_said(folder: Path) -> None:
    (folder / "own_plugin_d.py").write_text("import surely_not_installed\nkeep = 1\n")
    with pytest.raises(RecipeError, match="surely_not_installed"):
        plugins.load("own_plugin_d:keep", KINDS, "filter")

"""Rules of the tree that no linter knows."""

import ast
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
HEAVY = {"torch", "ray", "vllm", "deepspeed", "transformers", "datasets", "boto3", "pandas"}


@pytest.mark.parametrize("module", ["raystill", "raystill.cli", "raystill.planning", "raystill.client"])
def test_importing_it_imports_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*({HEAVY!r} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""


def test_help_answers_in_half_a_second() -> None:
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "raystill", "--help"], check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.5


def test_there_are_no_drawers_for_oddments() -> None:
    names = {path.stem for path in SOURCES}
    assert not names & {"utils", "util", "helpers", "helper", "common", "misc"}


def test_no_class_is_named_for_having_no_idea() -> None:
    classes = [n.name for p in SOURCES for n in ast.walk(ast.parse(p.read_text())) if isinstance(n, ast.ClassDef)]
    assert not [c for c in classes if re.search(r"(Manager|Factory|Handler|Orchestrator)$", c)]


def test_everything_public_says_what_it_is() -> None:
    silent = []
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        if not ast.get_docstring(tree):
            silent.append(str(path.relative_to(ROOT)))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                public = not node.name.startswith("_") and not ast.get_docstring(node)
                if public and node in tree.body:
                    silent.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert not silent


def test_broad_excepts_are_few() -> None:
    """User errors are typed; one boundary explains what nobody foresaw."""
    broad = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")))
    ]
    assert len(broad) <= 3, broad


def test_the_readmes_file_map_matches_the_tree() -> None:
    readme = (ROOT / "README.md").read_text()
    mapped = set(re.findall(r"^    ([a-z_0-9]+(?:\.py|/)) {2,}", readme, re.MULTILINE))
    package = ROOT / "src" / "raystill"
    there = {p.name for p in package.glob("*.py") if not p.name.startswith("__")}
    there |= {f"{p.name}/" for p in package.iterdir() if p.is_dir() and (p / "__init__.py").exists()}
    assert mapped == there


def test_the_recipe_reference_is_fresh() -> None:
    from raystill.reference import reference

    assert (ROOT / "docs" / "recipe.md").read_text() == reference(), (
        "run: python -m raystill.reference > docs/recipe.md"
    )

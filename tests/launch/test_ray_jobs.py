"""submit, logs, status, cancel and wait on a real Ray cluster of three nodes that asks for a token, by the commands."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from raystill.errors import ResourceError
from raystill.launch import ray_jobs, submit
from raystill.recipe_file import RecipeProblems

ROWS = 40


CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": True, "dashboard_port": 0})
for _ in range(2):
    cluster.add_node(num_cpus=2)
print("dashboard", cluster.head_node.webui_url, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The dashboard of a head and two nodes. A process of their own: Ray reads once whether there are tokens."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
        environment.setenv("RAY_AUTH_MODE", "token")
        environment.setenv("RAY_AUTH_TOKEN", "a-token-of-this-test-alone-0123456789")
        command = [sys.executable, "-c", CLUSTER]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as cluster:
            assert cluster.stdin and cluster.stdout
            yield next(f"http://{line.split()[1]}" for line in cluster.stdout if line.startswith("dashboard "))
            cluster.stdin.close()


def write(folder: Path, teacher: str = "{kind: scripted, scripted: {delay_s: 2.0}}") -> str:
    """A recipe whose student cannot be trained, so that its run ends soon after generate."""
    rows = "".join(f'{{"id": "r{i}", "prompt": "q {i}", "reference": "a {i}"}}\n' for i in range(ROWS))
    (folder / "rows.jsonl").write_text(rows)
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "config.json").write_text('{"num_hidden_layers": 2}')
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        f"name: ours\ntask: conversation\nroot: {folder / 'runs'}\n"
        f"data: {{train: {folder / 'rows.jsonl'}, reference: reference, id: id, split: {{test: 0}}}}\n"
        f"teacher: {teacher}\nstudent: {{model: {folder / 'model'}}}\ncompute: {{generate: {{cpus: 2}}}}\n"
    )
    return str(recipe)


def start(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "raystill", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def typed(*words: str, code: int = 0) -> str:
    running = start(*words)
    said, _ = running.communicate(timeout=240)
    assert running.returncode == code, said
    return said


@pytest.mark.slow
def test_a_run_on_a_cluster_that_is_there(address: str, tmp_path: Path) -> None:
    where = ["--to", "ray", "--address", address]
    recipe = write(tmp_path, "{kind: scripted, scripted: {delay_s: 600}}")
    following = start("submit", recipe, *where)
    assert following.stdout
    for line in following.stdout:
        if "log: " in line:  # the run's own first line
            break
    following.send_signal(signal.SIGINT)
    said = following.communicate(timeout=60)[0]
    assert following.returncode == 130 and "'ours' goes on without you" in said
    assert "is going    ours" in typed("submit", recipe, *where, "--detach")
    assert "'ours' is going" in typed("status", "ours", *where)
    write(tmp_path)
    assert "the recipe has changed while 'ours' is going" in typed("submit", recipe, *where, code=2)
    assert "'ours' is cancelled" in typed("cancel", "ours", *where)
    assert "'ours' failed" in typed("status", "ours", *where)
    assert "created    ours" in typed("submit", recipe, *where, "--detach")
    assert "'ours' failed" in typed("wait", "ours", *where, code=1)
    assert "generate" in typed("logs", "ours", *where)
    (manifest,) = (tmp_path / "runs" / "generate").glob("*/manifest.json")
    (copied,) = (tmp_path / "runs" / "inputs").glob("*/rows.jsonl")
    assert len(list((tmp_path / "runs" / "inputs").glob("*/recipe.yaml"))) == 2
    assert yaml.safe_load(manifest.read_text())["counts"] and copied.read_text().count("\n") == ROWS
    assert "no run 'theirs' on" in typed("status", "theirs", *where, code=2)


@pytest.mark.slow
def test_a_wrong_token_is_said(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "not-the-token-of-this-cluster-0123456789")
    assert "wants a token; export RAY_AUTH_MODE=token" in typed(
        "status", "ours", "--to", "ray", "--address", address, code=4
    )


def test_no_cluster_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(ResourceError, match=r"no Ray cluster at http://127.0.0.1:1: .*--address http://HEAD:8265"):
        ray_jobs.connect("http://127.0.0.1:1")


def test_an_address_that_ray_would_not_take_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(ResourceError, match="unset RAY_ADDRESS"):
        ray_jobs.connect("http://10.0.0.2:8265")


def test_what_only_this_folder_has_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = Path(write(tmp_path))
    recipe.write_text(
        recipe.read_text().replace(f"root: {tmp_path}/runs", "root: runs").replace(f"{tmp_path}/model", "./model")
    )
    with pytest.raises(RecipeProblems) as raised:
        submit.to_ray(str(recipe), None, "http://127.0.0.1:1", print)
    assert "runs is relative to a folder of this machine" in str(raised.value) and "s3://BUCKET/model" in str(
        raised.value
    )

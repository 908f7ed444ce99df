"""A run from submit to its end, each part a process: the driver in its pod, stages with a Ray of their own, a store, an API.

The operator starts generate twice at once, as it may when a retry overlaps; the driver's pod is killed while train runs.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from documents import IMAGE
from stub_api import Doc, cluster

from raystill import artifacts, storage
from raystill.artifacts import Table
from raystill.errors import StageError
from raystill.launch import follow, pods, submit
from raystill.records import Generation

pytestmark = pytest.mark.slow
ROWS = 600
DRIVE = (
    "import sys; from pathlib import Path; from raystill import cli; from raystill.launch import api, drive;"
    "drive.POD, drive.API, api.POLL_S = Path(sys.argv.pop(1)), sys.argv.pop(1), 0.2; cli.main()"
)


def write(folder: Path, root: str, model: Path) -> str:
    """A recipe whose teacher is scripted; its model lies on the store."""
    storage.upload(model, f"{root}/models/tiny")
    lines = (json.dumps({"id": f"r{i}", "prompt": f"question {i}", "reference": f"answer {i}"}) for i in range(ROWS))
    (folder / "rows.jsonl").write_text("\n".join(lines))
    environment = {"AWS_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL"]}
    recipe: dict[str, Any] = {
        "name": "whole",
        "root": root,
        "task": "conversation",
        "data": {"train": str(folder / "rows.jsonl"), "reference": "reference", "id": "id", "split": {"test": 0}},
        "teacher": {"kind": "scripted"},
        "student": {"model": f"{root}/models/tiny"},
        "train": {"epochs": 1, "batch_size": 64},
        "evaluate": {"max_tokens": 16},
        "compute": {
            "generate": {"cpus": 1},
            "train": {"workers": 2, "cpus": 1},
            "kubernetes": {"image": IMAGE, "environment": environment},
        },
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return str(folder / "recipe.yaml")


def mounted(folder: Path, config: Doc, words: list[str]) -> list[str]:
    """A pod's command with its ConfigMap in a folder."""
    folder.mkdir(exist_ok=True)
    for name, text in config["data"].items():
        (folder / name).write_text(text)
    return [word.replace(pods.MOUNT, str(folder)) for word in words]


def test_a_run_survives_overlapping_attempts_and_a_lost_driver(
    tmp_path: Path, s3: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "SILENCE_S", 0.2)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    recipe = write(tmp_path, s3, tiny_model)
    stages: list[str] = []
    drivers: list[subprocess.Popen[str]] = []
    training = threading.Event()

    def started(command: list[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def stage(job: Doc) -> tuple[bool, str]:
        name = job["metadata"]["labels"]["raystill.io/stage"]
        stages.append(name)
        if name == "evaluate":
            return False, "no engine in this test"
        if name == "train":
            training.set()
        words = mounted(tmp_path / name, config(job), job["spec"]["entrypoint"].split())
        attempts = [started([sys.executable, "-m", *words]) for _ in range(2 if name == "generate" else 1)]
        said = [attempt.communicate()[0] for attempt in attempts]
        return all(attempt.returncode == 0 for attempt in attempts), "\n".join(said)[-2000:]

    def config(job: Doc) -> Doc:
        volumes = json.dumps(job["spec"])
        return next(doc for name, doc in stub.of("configmaps").items() if f'"{name}"' in volumes)

    def kubelet(job: Doc, say: Callable[[str], None]) -> int:
        """Starts the driver anew when it was killed, as its Job does."""
        words = job["spec"]["template"]["spec"]["containers"][0]["command"][1:]
        while True:
            command = mounted(tmp_path / "driver", config(job), words)
            drivers.append(started([sys.executable, "-c", DRIVE, str(tmp_path), stub.url, *command]))
            said = drivers[-1].stdout
            assert said
            for line in said:
                say(line.rstrip())
            if (code := drivers[-1].wait()) != -signal.SIGKILL:
                return code

    with cluster(tmp_path) as stub:
        stub.stage, stub.kubelet = stage, kubelet
        told: list[str] = []
        place, name = submit.to_kubernetes(recipe, None, None, False, told.append)
        killer = threading.Thread(target=lambda: training.wait(200) and drivers[0].kill(), daemon=True)
        killer.start()
        with pytest.raises(StageError, match="'whole' failed: exit code 1"):
            follow.follow(place, name, told.append)
        status = follow.status(place, name)
    assert any("RayJob whole-evaluate failed: no engine in this test" in line for line in told), "\n".join(told)
    assert len(drivers) == 2 and stages == ["generate", "train", "evaluate"]
    assert stub.requests["create rayjobs"] == 3
    assert "whole-train" in status and "Complete, SUCCEEDED" in status
    (manifest,) = (e.url for e in storage.entries(f"{s3}/generate") if e.url.endswith("/manifest.json"))
    table = artifacts.load(Table, manifest.removesuffix("/manifest.json"))
    assert table
    assert Counter(row.id for row in table.rows(Generation)) == Counter(f"r{i}" for i in range(ROWS))

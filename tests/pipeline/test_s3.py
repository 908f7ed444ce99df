"""The line on a real S3 protocol server: every stage's input and output there, nothing local left behind."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from raystill import storage

pytestmark = pytest.mark.slow


def test_the_whole_line_lives_on_s3(s3: str, tiny_model: Path, tmp_path: Path) -> None:
    rows = [{"id": f"r{i}", "prompt": f"question {i}", "reference": f"answer {i}"} for i in range(120)]
    storage.write(storage.join(s3, "rows.jsonl"), "\n".join(map(json.dumps, rows)).encode())
    storage.upload(tiny_model, storage.join(s3, "model"))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"name: remote\ntask: conversation\nroot: {s3}/runs\n"
        f"data: {{train: {s3}/rows.jsonl, prompt: prompt, reference: reference, id: id}}\n"
        f"teacher: {{model: {s3}/model, sampling: {{max_tokens: 8}}}}\n"
        f"student: {{model: {s3}/model}}\n"
        "curate: {filters: [empty]}\n"
        "train: {epochs: 1, learning_rate: 1.0e-3, max_length: 256, validations: 1}\n"
        "evaluate: {limit: 4, max_tokens: 8, load: [1], load_requests: 2, together: true}\n"
    )
    command = [sys.executable, "-m", "raystill", "run", str(recipe)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr

    found = {e.url.removeprefix(f"{s3}/runs/") for e in storage.entries(f"{s3}/runs")}
    made = Counter(name.split("/")[0] for name in found if name.endswith("manifest.json"))
    # The baseline is the teacher's own model here, so they share their answers and loads.
    assert made == {"prepare": 1, "generate": 1, "curate": 1, "train": 1, "answer": 2, "load": 2}
    report = json.loads(storage.read(f"{s3}/runs/reports/remote/report.json"))
    assert set(report["models"]) == {"teacher", "baseline", "student"}
    units = [name for name in found if name.startswith("generate/") and name.endswith(".parquet")]
    ids = []
    for unit in units:
        (tmp_path / "unit.parquet").write_bytes(storage.read(f"{s3}/runs/{unit}"))
        ids += pq.read_table(tmp_path / "unit.parquet")["id"].to_pylist()
    assert len(ids) == len(set(ids)) > 90
    assert not (tmp_path / "runs").exists()

    again = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "generate" not in again.stdout.replace("generate/", "")

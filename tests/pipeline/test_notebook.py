"""A notebook written after the founding document's calls, run whole with nothing but its import changed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = """
from raystill import Client as MLClient
from raystill import DistillationJob

client = MLClient.from_config()
job = DistillationJob(
    teacher_model="./deepseek-v3",
    student_model="./phi-4-mini",
    training_data="./training_data.jsonl",
    validation_data="./validation_data.jsonl",
    task_type="conversation",
    hyperparameters={"learning_rate": 2e-5, "batch_size": 2, "num_epochs": 3, "temperature": 0.7},
)
job = client.jobs.create_or_update(job)
print("status:", client.jobs.get(job.name).status)
client.jobs.stream(job.name)
print("status:", client.jobs.get(job.name).status)

distilled = client.models.evaluate(
    model_name="phi-4-mini-distilled",
    test_data="./test_data.jsonl",
    metrics=["accuracy", "bleu_score", "inference_time"],
)
baseline = client.models.evaluate(model_name="phi-4-mini-baseline", test_data="./test_data.jsonl")
print("accuracy:", distilled["accuracy"], "gain:", distilled["accuracy"] - baseline["accuracy"])
print("seconds:", distilled["inference_time"], "bleu:", distilled["bleu_score"])
"""
CONFIG = """
curate: {filters: [empty]}
teacher: {sampling: {max_tokens: 8}}
train: {max_length: 64}
evaluate: {together: true, max_tokens: 8, load_requests: 2, limit: 4}
compute: {train: {workers: 1, micro_tokens: 128}}
"""
ROWS = {"training_data": 24, "validation_data": 4, "test_data": 4}


@pytest.mark.slow
def test_the_seeds_listings_run(tiny_model: Path, tmp_path: Path) -> None:
    for name in ("deepseek-v3", "phi-4-mini"):
        shutil.copytree(tiny_model, tmp_path / name)
    for name, count in ROWS.items():
        said = [
            [{"role": "user", "content": f"{name} {i}"}, {"role": "assistant", "content": f"yes {i}"}]
            for i in range(count)
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps({"messages": turns}) for turns in said))
    (tmp_path / "raystill.yaml").write_text(CONFIG)
    (tmp_path / "notebook.py").write_text(NOTEBOOK)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "notebook.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "status: Running" in done.stdout and "status: Completed" in done.stdout
    assert "accuracy: 0.0 gain: 0.0" in done.stdout and "seconds: 0." in done.stdout

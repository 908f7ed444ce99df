"""What cannot run on Kubernetes is said before anything is created: what is wrong, where, and what to type."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from documents import FLAGSHIP, IMAGE, values

from raystill import engine, planning
from raystill.errors import RecipeError
from raystill.launch import submission
from raystill.recipe_file import RecipeProblems

ENDPOINT = {"kind": "endpoint", "endpoint": {"url": "https://api.example.com/v1", "model": "big", "key_env": "API_KEY"}}


def write(folder: Path, recipe: dict[str, Any]) -> str:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return str(path)


@pytest.mark.parametrize(
    ("recipe", "at", "what", "fix"),
    [
        (values(root="runs"), "root", "no pod sees it", "root: s3://BUCKET/PREFIX"),
        (values(name="a" * 39), "name", "of 48 characters, and KubeRay takes 47", f"name: {'a' * 38}"),
        (values(name="3b"), "name", "starts with a digit", "name: run-3b"),
        (values(kubernetes={"gpu": "h300"}), "compute", "'h300' is not known", "take one of b200, h200, h100"),
        (values(kubernetes={"gpus": "h100"}), "compute", "unknown key 'gpus'", "did you mean 'gpu'?"),
        (values(kubernetes={"image": None}), "compute", "image is missing", "image: REGISTRY/NAME@sha256:…"),
        (values(kubernetes={"image": "ray:2.60"}), "compute", "names no digest", "imagetools inspect ray:2.60"),
        (values(kubernetes={"cpu_image": "ray:2.60"}), "compute", "cpu_image 'ray:2.60' names", "cpu_image: REGISTRY"),
        (values(kubernetes={"namespace": "Team A"}), "compute", "namespace 'Team A' is no Kubernetes name", "a-z, 0-9"),
        (values(kubernetes={"secrets": {"HF_TOKEN": "hf_abc"}}), "compute", "is not NAME: secret/key", "create secret generic"),
        (values(kubernetes={"environment": {"HF_TOKEN": "hf"}}), "compute", "looks like a secret", "{HF_TOKEN: SECRET/KEY}"),
        (
            values(kubernetes={"queue": "q"}, compute={"generate": {"replicas": [1, 4]}}), "compute",
            "Kueue admits a stage whole", "replicas: 4, or no queue",
        ),
        (
            values(compute={"generate": {"replicas": [1, 4], "tensor_parallel": 8, "pipeline_parallel": 2}},
                   teacher={"model": "a/b"}), "compute",
            "an engine over several nodes", "replicas: 4",
        ),
        (
            values(compute={"generate": {"tensor_parallel": 16}}, teacher={"model": "a/b"}), "compute",
            "nodes of this type have 8", "write tensor_parallel: 8 and pipeline_parallel: 2",
        ),
        (values(student={"model": "./mine"}), "student", "does not exist", "check the path"),
        (values(serve={"replicas": {"min_replicas": 0}}), "serve", "no pod is left", "min_replicas: 1"),
        (
            values(serve={"replicas": {"max_replicas": 2}, "engine": {"tensor_parallel_size": 8, "pipeline_parallel_size": 2}}),
            "serve", "an engine over several nodes", "replicas: 2",
        ),
        (values(serve={"adapters": True}), "serve", "pods of its own", "leave it out"),
    ],
)  # fmt: skip
def test_a_mistake_is_located_and_says_what_to_type(
    tmp_path: Path, recipe: dict[str, Any], at: str, what: str, fix: str
) -> None:
    path = write(tmp_path, recipe)
    with pytest.raises(RecipeProblems) as raised:
        submission.dry_run(path)
    problem = next(p for p in raised.value.problems if what in f"{p.what} {p.fix}")
    line = next(i for i, text in enumerate(Path(path).read_text().splitlines(), 1) if text.startswith(f"{at}:"))
    assert int(problem.where.rpartition(":")[2]) >= line
    assert fix in problem.fix or "does not exist" in problem.what


def test_a_models_folder_is_refused_and_the_command_that_moves_it_given(tmp_path: Path, tiny_model: Path) -> None:
    path = write(tmp_path, values(student={"model": str(tiny_model)}))
    with pytest.raises(RecipeError, match=f"aws s3 cp --recursive {tiny_model} s3://bucket/raystill/models"):
        submission.dry_run(path)


def test_a_teacher_of_another_recipe_is_to_be_submitted_first(tmp_path: Path) -> None:
    (tmp_path / "teacher.yaml").write_text(yaml.safe_dump(values(name="first", teacher={"kind": "reference"})))
    path = write(tmp_path, values(teacher={"recipe": str(tmp_path / "teacher.yaml")}))
    with pytest.raises(RecipeError, match="no pod can train that teacher first"):
        submission.dry_run(path)


def test_an_endpoints_key_is_in_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "x")
    with pytest.raises(RecipeError, match=r"secrets: \{API_KEY: SECRET/KEY\}"):
        submission.dry_run(write(tmp_path, values(teacher=ENDPOINT)))
    secrets = {"RAYSTILL_API_KEY": "serve/key", "API_KEY": "api/key"}
    made = submission.dry_run(write(tmp_path, values(teacher=ENDPOINT, kubernetes={"secrets": secrets})))
    assert "RayJob     small-train" in made.remarks


def test_a_file_of_keys_lies_in_the_store(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"aws s3 cp keys.yaml s3://"):
        submission.dry_run(write(tmp_path, values(serve={"keys_file": "keys.yaml"})))
    submission.dry_run(write(tmp_path, values(serve={"keys_file": "s3://bucket/keys.yaml"})))


def test_data_of_this_machine_is_named_and_the_pods_read_its_copy(tmp_path: Path) -> None:
    data = tmp_path / "train.jsonl"
    data.write_text('{"prompt": "hello"}\n')
    made = submission.dry_run(write(tmp_path, values(data={"train": [str(data), "s3://bucket/more.jsonl"]})))
    line = next(line for line in made.remarks.splitlines() if line.startswith("to upload"))
    here, _, there = line.removeprefix("to upload  ").partition(" -> ")
    assert here == str(data)
    assert there.startswith("s3://bucket/raystill/inputs/") and there.endswith("/train.jsonl")
    recipe = yaml.safe_load(next(yaml.safe_load_all(made.documents))["data"]["recipe.yaml"])
    assert recipe["data"]["train"] == ["s3://bucket/more.jsonl", there]
    data.write_text('{"prompt": "hello again"}\n')
    again = submission.dry_run(write(tmp_path, values(data={"train": str(data)})))
    assert there not in again.remarks


def test_training_is_judged_by_the_pods_gpus_not_by_this_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "has_gpu", lambda: False)
    path = write(tmp_path, values(train={"optimizer": "adamw_8bit"}))
    assert "RayJob     small-train" in submission.dry_run(path).remarks
    assert any("needs a GPU" in problem.what for problem in planning.plan(path).problems)


def test_a_compute_file_replaces_the_recipes(tmp_path: Path) -> None:
    other = tmp_path / "cluster.yaml"
    other.write_text(yaml.safe_dump({"kubernetes": {"image": IMAGE, "gpu": "l4", "namespace": "elsewhere"}}))
    made = submission.dry_run(write(tmp_path, values()), str(other))
    assert "namespace: elsewhere" in made.documents and "NVIDIA-L4" in made.documents
    assert "namespace: raystill" not in made.documents


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--to", "slurm"], "--to takes k8s (KubeRay) or ray (a Ray cluster that is there), not 'slurm'"),
        (["--to", "ray", "--dry-run"], "--dry-run and --serve are for Kubernetes"),
    ],
)
def test_options_that_make_no_sense_are_one_clear_error(options: list[str], says: str) -> None:
    command = [sys.executable, "-m", "raystill", "submit", str(FLAGSHIP), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr


def test_documents_go_to_standard_output_and_remarks_beside(tmp_path: Path) -> None:
    """Neither a cluster nor a store is touched: there are none, and no credentials."""
    command = [sys.executable, "-m", "raystill", "submit", str(FLAGSHIP), "--to", "k8s", "--dry-run"]
    empty = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true"}
    env = empty | {"PYTHONPATH": str(Path(submission.__file__).parents[2])}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    kinds = [doc["kind"] for doc in yaml.safe_load_all(done.stdout)]
    assert kinds == ["ConfigMap", "Job", "RayJob", "RayJob", "RayJob", "RayService"]
    assert "nothing was created" in done.stderr

"""Azure's calls: what recipe they become, what a job's states are, and how names of models resolve."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

import raystill
from raystill import azure, background, live, planning
from raystill.distillation_job import DistillationJob
from raystill.errors import RecipeError, StageError
from raystill.recipe_file import RecipeProblems


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [
        {"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": "a"}]} for i in range(9)
    ]
    for name in ("training_data", "validation_data", "test_data"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def seed_job(**changes: Any) -> DistillationJob:
    """The founding document's own call."""
    given: dict[str, Any] = {
        "teacher_model": "deepseek-v3",
        "student_model": "phi-4-mini",
        "training_data": "./training_data.jsonl",
        "validation_data": "./validation_data.jsonl",
        "task_type": "conversation",
        "hyperparameters": {"learning_rate": 2e-5, "batch_size": 2, "num_epochs": 3, "temperature": 0.7},
    }
    return DistillationJob(**given | changes)


def command(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Jobs run this in place of `raystill run`."""
    (folder / "command.py").write_text(f"import pathlib, sys, time\n{body}\n")
    monkeypatch.setattr(background, "COMMAND", [sys.executable, str(folder / "command.py")])
    monkeypatch.setattr(background, "LOOK_S", 0.02)


def until(client: azure.Client, name: str, status: str) -> None:
    for _ in range(500):
        if client.jobs.get(name).status == status:
            return
        time.sleep(0.02)
    raise AssertionError(client.jobs.get(name).status)


def test_the_seeds_call_is_a_recipe_that_plans(here: Path) -> None:
    job = seed_job()
    assert job.name == "phi-4-mini-from-deepseek-v3"
    values = job.recipe({"root": "elsewhere", "train": {"batch_size": 9, "max_length": 512}})
    assert values == {
        "name": job.name,
        "task": "conversation",
        "root": "elsewhere",
        "data": {
            "train": "./training_data.jsonl",
            "validation": "./validation_data.jsonl",
            "split": {"test": 0.0},
        },
        "teacher": {"model": "deepseek-ai/DeepSeek-V3", "sampling": {"temperature": 0.7}},
        "student": {"model": "microsoft/Phi-4-mini-instruct"},
        "train": {"learning_rate": 2e-5, "batch_size": 2, "epochs": 3, "max_length": 512},
        "evaluate": {"split": "validation"},
    }
    (here / "recipe.yaml").write_text(yaml.safe_dump(values))
    assert planning.plan("recipe.yaml").problems == []


@pytest.mark.parametrize(
    ("teacher", "block"),
    [
        (
            "gpt-4",
            {"kind": "endpoint", "url": "https://api.openai.com/v1", "model": "gpt-4", "key_env": "OPENAI_API_KEY"},
        ),
        ("Llama-3.1-405B-Instruct", {"model": "meta-llama/Llama-3.1-405B-Instruct"}),
        ("./models/own", {"model": "./models/own"}),
        ("Qwen/Qwen3-8B", {"model": "Qwen/Qwen3-8B"}),
    ],
)
def test_names_of_teachers_resolve(here: Path, teacher: str, block: dict[str, str]) -> None:
    made = seed_job(teacher_model=teacher, hyperparameters={}).recipe({})["teacher"]
    assert made.pop("endpoint", {}) | made == block


@pytest.mark.parametrize(
    ("said", "task"), [("NLI", "nli"), ("NLU_QA", "qa"), ("MATH", "math"), ("SUMMARIZATION", "summarization")]
)
def test_azures_tasks_are_ours(here: Path, said: str, task: str) -> None:
    assert seed_job(task_type=said).recipe({})["task"] == task


def test_the_column_of_right_answers_is_found_by_its_name(here: Path) -> None:
    (here / "rows.jsonl").write_text('{"question": "1+1?", "answer": "2"}\n')
    assert seed_job(training_data="rows.jsonl").recipe({})["data"]["reference"] == "answer"


def test_an_unknown_hyperparameter_is_refused(here: Path) -> None:
    with pytest.raises(RecipeError, match=r"'epochs' is no hyperparameter .* num_epochs"):
        seed_job(hyperparameters={"epochs": 3}).recipe({})


def test_defaults_come_from_a_file(here: Path) -> None:
    assert raystill.Client.from_config().defaults == {}
    (here / "raystill.yaml").write_text("root: s3://bucket/prefix\n")
    client = raystill.Client.from_config()
    assert client.defaults == {"root": "s3://bucket/prefix"} and client.folder == Path("runs/jobs")
    with pytest.raises(RecipeError, match=r"other\.yaml does not exist"):
        raystill.Client.from_config("other.yaml")


def test_a_jobs_mistakes_come_before_it_starts(here: Path) -> None:
    client = azure.Client()
    with pytest.raises(RecipeProblems, match=r"gone\.jsonl does not exist"):
        client.jobs.create_or_update(seed_job(training_data="gone.jsonl"))
    assert [job.status for job in client.jobs.list()] == ["NotStarted"]


def test_a_job_runs_completes_and_is_started_once(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(
        here,
        monkeypatch,
        "print('one', flush=True)\nwhile not pathlib.Path('go').exists(): time.sleep(0.01)\nprint('two')",
    )
    monkeypatch.setattr(background, "done", lambda path: True)
    client, said = azure.Client(), list[str]()
    job = client.jobs.create_or_update(seed_job())
    assert job.status == client.jobs.create_or_update(seed_job()).status == "Running"
    with pytest.raises(RecipeError, match="runs already with another recipe"):
        client.jobs.create_or_update(seed_job(hyperparameters={"num_epochs": 1}))
    (here / "go").touch()
    client.jobs.stream(job.name, said.append)
    assert said == ["one", "two"]
    assert client.jobs.get(job.name).status == "Completed"


def test_a_failure_is_told_with_its_log(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(here, monkeypatch, "sys.exit('error: no room')")
    client, said = azure.Client(), list[str]()
    job = client.jobs.create_or_update(seed_job())
    with pytest.raises(StageError, match="is Failed; its recipe and log are in"):
        client.jobs.stream(job.name, said.append)
    assert said == ["error: no room"]


def test_cancelling_asks_and_then_it_is_canceled(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = (
        "try: print('up', flush=True); time.sleep(60)\n"
        "except KeyboardInterrupt:\n while not pathlib.Path('go').exists(): time.sleep(0.01)"
    )
    command(here, monkeypatch, slow)
    client = azure.Client()
    job = client.jobs.create_or_update(seed_job())
    while "up" not in (Path(job.recipe).parent / background.LOG).read_text():
        time.sleep(0.02)
    assert client.jobs.cancel(job.name).status == "CancelRequested"
    (here / "go").touch()
    until(client, job.name, "Canceled")
    assert client.jobs.create_or_update(seed_job()).status == "Running"
    client.jobs.cancel(job.name)
    until(client, job.name, "Canceled")


def test_a_job_that_is_not_there_names_those_that_are(here: Path) -> None:
    with pytest.raises(RecipeError, match="there is no job 'nobody'; there are: none"):
        azure.Client().jobs.get("nobody")


@pytest.fixture
def finished(here: Path, monkeypatch: pytest.MonkeyPatch) -> azure.Client:
    """The seed's job, finished, whose models have these metrics."""
    command(here, monkeypatch, "")
    monkeypatch.setattr(background, "done", lambda path: True)
    found = {"accuracy": 0.87, "bleu": 41.0, "seconds_per_answer": 0.48}
    monkeypatch.setattr(live, "measure", lambda path, name: ({**found, "accuracy": len(name) / 10}, ["few rows"]))
    client = azure.Client()
    client.jobs.create_or_update(seed_job())
    until(client, seed_job().name, "Completed")
    return client


@pytest.mark.parametrize("of", ["phi-4-mini", "phi-4-mini-instruct", "phi-4-mini-from-deepseek-v3"])
def test_names_of_models_resolve_to_the_jobs(finished: azure.Client, of: str) -> None:
    student = finished.models.evaluate(
        f"{of}-distilled", "./test_data.jsonl", metrics=["accuracy", "bleu_score", "inference_time"]
    )
    assert student == {"accuracy": len("student") / 10, "bleu_score": 41.0, "inference_time": 0.48}
    baseline = finished.models.evaluate(f"{of}-baseline", "./test_data.jsonl")
    assert baseline["accuracy"] == len("baseline") / 10
    asked = yaml.safe_load((finished.folder / seed_job().name / "evaluate.yaml").read_text())
    assert asked["data"]["test"] == "./test_data.jsonl" and asked["evaluate"]["split"] == "test"


def test_a_metric_or_model_that_is_not_there_says_so(finished: azure.Client) -> None:
    with pytest.raises(RecipeError, match=r"no metric 'rouge' here; there are accuracy, .*; few rows"):
        finished.models.evaluate("phi-4-mini-distilled", "./test_data.jsonl", metrics=["rouge"])
    with pytest.raises(
        RecipeError, match="no model 'phi-4-mini'; there are: phi-4-mini-distilled, phi-4-mini-baseline"
    ):
        finished.models.evaluate("phi-4-mini", "./test_data.jsonl")
    with pytest.raises(RecipeError, match="no model 'other-distilled'"):
        finished.models.evaluate("other-distilled", "./test_data.jsonl")

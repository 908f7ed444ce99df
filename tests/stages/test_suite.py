"""A frozen suite: a local lm-eval task through lm-eval's own client, against a server that knows half of it."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fixtures_openai import Server

from raystill import recipe
from raystill.artifacts import Manifest, Table
from raystill.context import Context
from raystill.errors import RecipeError, StageError
from raystill.records import SuiteScore
from raystill.stages import suite
from raystill.view import Lines

TASK = """
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: sums.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
process_docs: !function own.docs
generation_kwargs: {until: ["\\n"], max_gen_toks: 8, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
metadata: {version: 1.0}
"""


@dataclass(frozen=True)
class Hosted:
    base_url: str
    key: str | None = "k-1"

    def stats(self) -> dict[str, dict[str, int]]:
        return {}

    def meters(self, model: str) -> dict[str, Any]:
        return {}


def task(folder: Path) -> Path:
    rows = [{"question": f"{i} + {i} =", "answer": str(2 * i)} for i in range(8)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "own.py").write_text("def docs(rows):\n    return rows\n")
    (folder / "sums.yaml").write_text(TASK)
    return folder / "sums.yaml"


def context(folder: Path) -> Context:
    (folder / "scratch").mkdir(exist_ok=True)
    return Context(str(folder / "out"), recipe.Compute(), Lines(io.StringIO()), 0.05, folder / "scratch")


@pytest.mark.slow
def test_lm_evals_own_client_scores_a_served_model(server: Server, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed")

    def says(i: int, body: dict[str, Any]) -> Any:
        number = int(body["messages"][-1]["content"].split()[0])
        text = str(2 * number) if number % 2 else "none"
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        return 200, {"Content-Type": "application/json"}, json.dumps({"choices": [choice]}).encode()

    server.says = says
    config = recipe.Suite(lm_eval=str(task(tmp_path)), limit=6, fewshot=1)
    made = suite.suite(config, "student", 4, Hosted(server.url), context(tmp_path))
    table = Table(str(tmp_path / "out"), "s", Manifest("scores", 1, "suite", 1, "s", {}, {}, list(made.files)))
    (score,) = table.rows(SuiteScore)
    assert (score.model, score.task, score.metric, score.value, score.rows) == (
        "student",
        "sums",
        "exact_match",
        0.5,
        6,
    )
    assert score.stderr is not None and 0.1 < score.stderr < 0.3
    assert {(body["model"], body["key"], body["path"]) for body in server.asked} == {
        ("student", "Bearer k-1", "/v1/chat/completions")
    }
    assert {len(body["messages"]) for body in server.asked} == {3}  # one example before each question


@pytest.mark.slow
def test_a_task_that_lm_eval_cannot_ask_says_why(server: Server, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    file = task(tmp_path)
    file.write_text(TASK.replace("test_split: test", "test_split: none"))
    with pytest.raises(StageError, match=r"lm-eval failed on student: .*; try it by hand"):
        suite.suite(recipe.Suite(lm_eval=str(file)), "student", 4, Hosted(server.url), context(tmp_path))


def test_a_suite_is_what_its_files_hold(tmp_path: Path) -> None:
    file = task(tmp_path)
    first = suite.identity(str(file))
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    assert suite.identity(str(task(moved))) == first
    (moved / "sums.jsonl").write_text("{}\n")
    assert suite.identity(str(moved / "sums.yaml")) != first
    file.write_text(TASK.replace("until", "stop"))
    assert suite.identity(str(file)) != first
    assert suite.identity("gsm8k")["task"] == "gsm8k"
    assert suite.named(file) == "sums"


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"pip install 'raystill\[lm-eval\]'"):
        suite.refuse_absent("gsm8k")
    monkeypatch.setattr(suite.importlib.util, "find_spec", lambda name: object())
    with pytest.raises(RecipeError, match="does not exist"):
        suite.refuse_absent(str(tmp_path / "none.yaml"))
    (tmp_path / "odd.yaml").write_text("dataset_path: json\n")
    with pytest.raises(RecipeError, match="names no task"):
        suite.refuse_absent(str(tmp_path / "odd.yaml"))
    (tmp_path / "odd.yaml").write_text("a: [")
    with pytest.raises(RecipeError, match="cannot be read as YAML"):
        suite.refuse_absent(str(tmp_path / "odd.yaml"))
    suite.refuse_absent("gsm8k")

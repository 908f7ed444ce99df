"""A task in YAML alone, from rows to examples: no Python, no engine."""

import io
import json
import threading
from pathlib import Path

import pytest

from raystill import artifacts, pipeline
from raystill.artifacts import Table
from raystill.records import Example
from raystill.view import Lines


@pytest.mark.parametrize(("reasoning", "learnt"), [("false", '{"team": "billing"}'), ("true", "Money.\nAnswer: ")])
def test_a_task_in_yaml_alone_makes_examples(tmp_path: Path, reasoning: str, learnt: str) -> None:
    said = ['Money.\nAnswer: {"team": "billing"}', 'Answer: {"team": "bil', "billing, I think"]
    rows = [{"prompt": f"message {i}", "reference": said[i % 3]} for i in range(30)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"num_hidden_layers": 2}')
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"name: own\nroot: {tmp_path / 'runs'}\n"
        "task: {parse: {json_path: team}, chain_of_thought: true, system: 'Which team?'}\n"
        "max_error_rate: 0.5\n"
        f"data: {{train: {tmp_path / 'rows.jsonl'}, reference: reference, split: {{test: 0, validation: 0}}}}\n"
        f"teacher: {{kind: reference}}\nstudent: {{model: {tmp_path / 'model'}}}\n"
        f"curate: {{reasoning: {reasoning}}}\n"
    )
    for stage in ("prepare", "generate", "curate"):
        pipeline.run(str(path), Lines(io.StringIO()), threading.Event(), only=stage)
    (folder,) = (tmp_path / "runs" / "curate").iterdir()
    made = artifacts.load(Table, str(folder))
    assert made and made.counts["dropped"]["train"] == {
        "no 'Answer:' after its reasoning": 10,
        "no JSON with a value at task.parse.json_path": 10,
    }
    examples = list(made.rows(Example, "train"))
    assert len(examples) == 10 and all(e.messages[-1].content.startswith(learnt) for e in examples)

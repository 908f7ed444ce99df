"""starter: what a file seems to hold, and a recipe that validates as it stands."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from raystill import starter
from raystill.errors import DataError, RecipeError
from raystill.recipe import Recipe
from raystill.stages import prepare


def put(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def tickets(n: int = 40) -> list[dict[str, Any]]:
    topics = ["card: lost", "refund", "delivery"]
    return [{"id": i, "customer_id": i % 7, "text": f"message {i}", "topic": topics[i % 3]} for i in range(n)]


def written(folder: Path, found: starter.Guess) -> Recipe:
    path = folder / "support.yaml"
    starter.write_recipe(found, str(path))
    return Recipe.model_validate(yaml.safe_load(path.read_text()))


def test_few_different_answers_are_classification(tmp_path: Path) -> None:
    found = starter.guess(put(tmp_path / "a.jsonl", tickets()))
    assert (found.prompt, found.reference, found.id, found.by) == ("text", "topic", "id", "customer_id")
    assert found.task == "classification" and found.labels == ["card: lost", "delivery", "refund"]
    recipe = written(tmp_path, found)
    assert (recipe.name, recipe.task.kind, recipe.data.split.by) == ("support", "classification", "customer_id")
    assert recipe.teacher.system == "Answer with exactly one of these and nothing else: card: lost, delivery, refund"
    prepare.check_columns(recipe.data)


def test_free_text_answers_are_conversation(tmp_path: Path) -> None:
    found = starter.guess(put(tmp_path / "a.jsonl", [{"question": f"q{i}", "answer": f"a{i}"} for i in range(50)]))
    assert (found.task, found.prompt, found.reference, found.id) == ("conversation", "question", "answer", None)
    assert written(tmp_path, found).data.reference == "answer"


def test_conversations_need_no_reference(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    found = starter.guess(put(tmp_path / "a.jsonl", [{"messages": turns}] * 3))
    assert (found.prompt, found.reference, found.task) == ("messages", None, "conversation")
    assert found.columns == {"messages": "conversation"}
    written(tmp_path, found)


def test_instruction_and_input_become_a_template(tmp_path: Path) -> None:
    found = starter.guess(
        put(tmp_path / "a.jsonl", [{"instruction": f"i{i}", "input": "", "output": "o"} for i in range(9)])
    )
    assert written(tmp_path, found).data.prompt == "{{ instruction }}\n{{ input }}" and found.reference == "output"


def test_an_unnamed_prompt_is_the_longest_text(tmp_path: Path) -> None:
    rows = [{"subject": "short", "body": f"a much longer text {i}", "kind": "ab"[i % 2]} for i in range(20)]
    found = starter.guess(put(tmp_path / "a.jsonl", rows))
    assert (found.prompt, found.reference, found.task) == ("body", "kind", "classification")
    assert "longest texts" in str(found)


def test_the_recipe_fits_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = put(tmp_path / "a.jsonl", tickets())
    monkeypatch.setenv("PATH", str(tmp_path))
    laptop = yaml.safe_load(starter.recipe_text(starter.guess(file), "a"))
    assert (
        laptop["teacher"]["model"] == "models/smollm2-135m-instruct" and laptop["student"]["init"]["from"] == "teacher"
    )
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\n")
    smi.chmod(0o755)
    gpu = Recipe.model_validate(yaml.safe_load(starter.recipe_text(starter.guess(file), "a")))
    assert gpu.student is not None and gpu.teacher.model != gpu.student.model


def test_the_schema_lies_beside_the_recipe_and_is_named_in_its_first_line(tmp_path: Path) -> None:
    shown = starter.write_recipe(
        starter.guess(put(tmp_path / "a.jsonl", tickets())), str(tmp_path / "new" / "My Run.yaml")
    )
    first = (tmp_path / "new" / "My Run.yaml").read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=recipe.schema.json"
    assert json.loads((tmp_path / "new" / "recipe.schema.json").read_text())["title"] == "Recipe"
    assert "prompt: 'text', by its name" in shown and "raystill plan" in shown


def test_a_recipe_is_never_overwritten(tmp_path: Path) -> None:
    found = starter.guess(put(tmp_path / "a.jsonl", tickets()))
    (tmp_path / "recipe.yaml").write_text("mine")
    with pytest.raises(RecipeError, match="not overwritten"):
        starter.write_recipe(found, str(tmp_path / "recipe.yaml"))
    assert (tmp_path / "recipe.yaml").read_text() == "mine"


@pytest.mark.parametrize("rows", [[], [{"n": 1}]])
def test_a_file_without_prompts_is_refused(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    with pytest.raises(DataError, match=r"nothing to guess from|no column could be a prompt"):
        starter.guess(put(tmp_path / "a.jsonl", rows))


@pytest.mark.parametrize(
    ("row", "task", "prompt", "reference"),
    [
        ({"premise": "p{}", "hypothesis": "h{}", "label": 1}, "nli", starter.TOGETHER["premise", "hypothesis"][1], "label"),
        ({"context": "c{}", "question": "q{}", "answer": "a{}"}, "qa", "{{ context }}\n\n{{ question }}", "answer"),
        ({"question": "q{}", "answer": "1+1\n#### {}"}, "math", "question", "answer"),
        ({"article": "a long text {}", "highlights": "short {}"}, "summarization", "article", "highlights"),
        ({"de": "Satz {}", "en": "sentence {}"}, {"kind": "translation", "language": "German"}, "en", "de"),
        ({"question": "q{}", "answer": "about {} or so"}, "conversation", "question", "answer"),
    ],
)  # fmt: skip
def test_the_task_is_what_the_columns_speak_of(
    tmp_path: Path, row: dict[str, Any], task: Any, prompt: str, reference: str
) -> None:
    rows = [{k: v.format(i) if isinstance(v, str) else i % 3 for k, v in row.items()} for i in range(30)]
    found = starter.guess(put(tmp_path / "a.jsonl", rows))
    assert (found.task, found.prompt, found.reference) == (task, prompt, reference)
    recipe = written(tmp_path, found)
    assert recipe.teacher.system is None
    prepare.check_columns(recipe.data)


@pytest.mark.parametrize(
    ("labels", "task"),
    [
        (["safe", "unsafe"], "moderation"),
        (["spam", "ham"], {"kind": "moderation", "labels": ["ham", "spam"]}),
        (["billing", "delivery"], "classification"),
    ],
)
def test_what_may_not_stand_is_moderation(tmp_path: Path, labels: list[str], task: Any) -> None:
    rows = [{"text": f"t{i}", "label": labels[i % 2]} for i in range(30)]
    found = starter.guess(put(tmp_path / "a.jsonl", rows))
    assert found.task == task
    assert written(tmp_path, found).teacher.sampling.max_tokens == 32


def test_labels_that_nli_does_not_know_are_written_down(tmp_path: Path) -> None:
    rows = [{"premise": f"p{i}", "hypothesis": "h", "label": ["yes", "no"][i % 2]} for i in range(30)]
    found = starter.guess(put(tmp_path / "a.jsonl", rows))
    assert found.task == {"kind": "nli", "labels": ["no", "yes"]}

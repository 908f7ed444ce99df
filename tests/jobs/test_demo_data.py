import importlib.util
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from raystill import planning
from raystill.recipe import Task
from raystill.records import Message, Prompt
from raystill.tasks.conversation import Conversation

SCRIPT = Path(__file__).parents[2] / "jobs" / "demo_data.py"


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo_data", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["demo_data"] = module
    spec.loader.exec_module(module)
    return module


def accuracy(row: dict[str, Any], answer: str) -> float:
    prompt = Prompt(
        id=row["id"],
        conversation_id=None,
        messages=[Message("user", row["prompt"])],
        tools=None,
        task="conversation",
        source="demo",
        split="test",
        reference=row["reference"],
        columns=json.dumps(row),
    )
    return Conversation([], Task(kind="conversation")).score(prompt, answer)["accuracy"]


def test_one_seed_gives_the_same_rows_and_another_seed_others(demo: ModuleType) -> None:
    assert demo.rows() == demo.rows()
    assert demo.rows(seed=1) != demo.rows(seed=2)


def test_held_out_orders_and_combinations_are_never_trained_on(demo: ModuleType) -> None:
    train, test = demo.rows()
    assert (len(train), len(test)) == (demo.TRAIN_ROWS, demo.TEST_ROWS)
    for of in (lambda row: row["must_include"][0], lambda row: tuple(row["must_include"][1:]), lambda row: row["id"]):
        seen = [of(row) for row in train + test]
        assert len(set(seen)) == len(seen)


def test_every_reference_is_right_and_every_other_answer_wrong(demo: ModuleType) -> None:
    _, test = demo.rows()
    assert all(accuracy(row, row["reference"]) == 1 for row in test)
    assert not any(accuracy(row, other["reference"]) for row, other in itertools.pairwise(test))
    assert not any(accuracy(row, row["prompt"]) for row in test)


@pytest.mark.parametrize("fact", range(4))
def test_one_wrong_fact_is_enough(demo: ModuleType, fact: int) -> None:
    _, test = demo.rows()
    for row, other in itertools.pairwise(test):
        right, wrong = row["must_include"][fact], other["must_include"][fact]
        if right != wrong:
            assert accuracy(row, row["reference"].replace(right, wrong)) == 0
        assert accuracy(row, row["reference"] + f" Also: {wrong}.") == 0


def test_wording_varies_and_messages_are_short(demo: ModuleType) -> None:
    train, _ = demo.rows()
    words = [row["prompt"].replace(row["must_include"][0][1:], "") for row in train]
    assert len(set(words)) > 0.99 * len(words)
    assert max(len(row["prompt"]) for row in train) < 220


@pytest.mark.slow
def test_writing_is_repeatable_in_any_process_and_done_once(tmp_path: Path) -> None:
    for name, hash_seed in (("a", "1"), ("b", "2"), ("b", "3")):
        command = [sys.executable, str(SCRIPT), str(tmp_path / name)]
        done = subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": hash_seed}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert "already there" in done.stdout
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert Path("model/tokenizer.json") in files
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


@pytest.mark.slow
def test_numbers_are_pieces_of_two_digits_and_text_survives_the_tokenizer(tmp_path: Path, demo: ModuleType) -> None:
    from raystill import chat

    demo.write(tmp_path)
    tokenizer = chat.load_tokenizer(str(tmp_path / "model"))
    assert all(len(tokenizer(f"{n:02d}")["input_ids"]) == 1 for n in range(100))
    _, test = demo.rows()
    for row in test:
        messages = [Message("user", row["prompt"]), Message("assistant", row["reference"])]
        encoded = chat.encode(tokenizer, messages, [1])
        assert len(chat.prompt_ids(tokenizer, messages[:1])) <= 60
        answer = [i for i, loss in zip(encoded.input_ids, encoded.loss_mask, strict=True) if loss]
        assert answer[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(answer[:-1]) == row["reference"]
        assert len(answer) <= 32


@pytest.mark.parametrize("job", ["demo-soft", "demo-layers"])
def test_a_job_of_the_demo_is_planned(
    job: str, tmp_path: Path, demo: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(SCRIPT.parent, tmp_path / "jobs")
    monkeypatch.chdir(tmp_path)
    demo.write(Path("data/demo"))
    made = planning.plan(f"jobs/{job}.yaml")
    assert not made.problems
    labels = [step.label for step in made.steps]
    assert ("score" in labels) == (job == "demo-soft")
    assert labels.index("curate") < labels.index("train student", labels.index("curate"))

"""Mistakes as people make them, each planted into a sound recipe, model, store or endpoint, and each caught by `plan --check`
before anything is paid for, with what mends it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import CHAT_TEMPLATE, build_tiny_model
from fixtures_openai import Server
from typer.testing import CliRunner

from raystill import doctor, planning, printed, rehearsal, storage
from raystill.cli import app
from raystill.launch import examined
from raystill.training import preflight


@dataclass(frozen=True)
class Sound:
    """A recipe that is right, as values, with a folder of its own for teacher, student and rows."""

    folder: Path
    values: dict[str, Any]
    server: Server

    @property
    def teacher(self) -> Path:
        return self.folder / "teacher"

    @property
    def student(self) -> Path:
        return self.folder / "student"

    def edit(self, model: Path, name: str, **changes: Any) -> None:
        values = json.loads((model / name).read_text())
        (model / name).write_text(json.dumps(values | changes))

    def check(self) -> str:
        """All that `plan --check` says of what is wrong or worth a thought."""
        path = self.folder / "recipe.yaml"
        path.write_text(json.dumps(self.values))
        made = planning.plan(str(path))
        said = [str(problem) for problem in made.problems]
        if not made.problems:
            found = [*doctor.examine(made), *examined.examine(str(path)), *rehearsal.trials(made)]
            said += [printed.finding(f) for f in found if f.problem or f.note]
        return "\n".join(said)


@pytest.fixture
def sound(tiny_model: Path, tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Sound:
    for name in ("teacher", "student"):
        shutil.copytree(tiny_model, tmp_path / name)
    rows = [{"id": f"r{i}", "prompt": f"question {i}", "reference": f"answer {i}"} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(preflight, "run", lambda trial: preflight.Seen([1 << 30] * trial.workers, fits=True))
    values = {
        "name": "sound",
        "task": "conversation",
        "root": str(tmp_path / "runs"),
        "data": {"train": str(tmp_path / "rows.jsonl"), "prompt": "prompt", "reference": "reference", "id": "id"},
        "teacher": {"model": str(tmp_path / "teacher")},
        "student": {"model": str(tmp_path / "student")},
        "train": {"max_length": 64},
        "evaluate": {"max_tokens": 16},
        "compute": {"train": {"micro_tokens": 128}},
    }
    return Sound(tmp_path, values, server)


def another_tokenizer(sound: Sound) -> None:
    shutil.rmtree(sound.teacher)
    build_tiny_model(sound.teacher, vocabulary=330)
    sound.values.update({"train": {"max_length": 64, "teacher": "live", "loss": {"kind": "forward_kl"}}})


def an_end_that_is_no_token(sound: Sound) -> None:
    (sound.student / "chat_template.jinja").write_text(CHAT_TEMPLATE.replace("{{ eos_token }}", "</s>"))


def no_generation_prompt(sound: Sound) -> None:
    template = CHAT_TEMPLATE.replace("{% if add_generation_prompt %}<|assistant|>\n{% endif %}", "")
    (sound.teacher / "chat_template.jinja").write_text(template)


def engines_that_never_stop(sound: Sound) -> None:
    sound.edit(sound.teacher, "generation_config.json", eos_token_id=1)
    sound.edit(sound.teacher, "tokenizer_config.json", eos_token="<|pad|>")
    (sound.teacher / "chat_template.jinja").write_text(CHAT_TEMPLATE.replace("{{ eos_token }}", "<|end|>"))


def tokens_without_a_row(sound: Sound) -> None:
    sound.edit(sound.student, "config.json", vocab_size=300)


def longer_than_the_context(sound: Sound) -> None:
    sound.values["train"] = {"max_length": 4096}


def a_head_that_is_missing(sound: Sound) -> None:
    sound.edit(sound.student, "config.json", tie_word_embeddings=False)


def a_student_too_large(sound: Sound) -> None:
    sound.values["student"] = {"model": "meta-llama/Llama-3.1-405B-Instruct"}


def a_licence_with_terms(sound: Sound) -> None:
    (sound.teacher / "README.md").write_text("---\nlicense: llama3.1\n---\n")


def a_key_in_the_recipe(sound: Sound) -> None:
    endpoint = {"url": sound.server.url, "model": "large", "key_env": "sk-abcdefghijklmnopqrstuvwxyz"}
    sound.values["teacher"] = {"kind": "endpoint", "endpoint": endpoint}


def a_key_that_is_not_set(sound: Sound) -> None:
    endpoint = {"url": sound.server.url, "model": "large", "key_env": "NO_SUCH_KEY"}
    sound.values["teacher"] = {"kind": "endpoint", "endpoint": endpoint}


def a_key_that_is_refused(sound: Sound) -> None:
    sound.server.script((401, {}, b'{"error": {"message": "no"}}'))
    sound.values["teacher"] = {"kind": "endpoint", "endpoint": {"url": sound.server.url, "model": "large"}}


def a_model_that_the_endpoint_has_not(sound: Sound) -> None:
    sound.server.script((404, {}, b'{"error": {"message": "no such model"}}'))
    sound.values["teacher"] = {"kind": "endpoint", "endpoint": {"url": sound.server.url, "model": "lagre"}}


def a_budget_that_counts_nothing(sound: Sound) -> None:
    sound.values["budget"] = {"usd": 100}


def a_column_that_is_not_there(sound: Sound) -> None:
    sound.values["data"]["reference"] = "refrence"


def an_image_by_tag(sound: Sound) -> None:
    sound.values["compute"] |= {"kubernetes": {"image": "registry.example.com/raystill:latest"}}


def a_root_that_no_pod_sees(sound: Sound) -> None:
    sound.values["compute"] |= {"kubernetes": {"image": f"registry.example.com/raystill@sha256:{'0' * 64}"}}


def a_gpu_that_is_none(sound: Sound) -> None:
    sound.values["compute"] |= {"kubernetes": {"gpu": "h1000"}}


@pytest.mark.parametrize(
    ("plant", "says", "fix"),
    [
        (another_tokenizer, "has another tokenizer", "{teacher: stored}"),
        (an_end_that_is_no_token, "no token of the tokenizer", "write {{ eos_token }}"),
        (no_generation_prompt, "no generation prompt", "{% if add_generation_prompt %}"),
        (engines_that_never_stop, "engines stop at", '"eos_token_id": '),
        (tokens_without_a_row, "some tokens have none", "resize_token_embeddings"),
        (longer_than_the_context, "context 512 tokens", "train: {max_length: 512}"),
        (a_head_that_is_missing, "would start random", '"tie_word_embeddings": true'),
        (a_student_too_large, "are free", "compute.train.workers"),
        (a_licence_with_terms, "must be called Llama-…", "say so in the student's model card"),
        (a_key_in_the_recipe, "never the key", "export ENDPOINT_KEY=…"),
        (a_key_that_is_not_set, "NO_SUCH_KEY holds no key", "export NO_SUCH_KEY=…"),
        (a_key_that_is_refused, "401", "key"),
        (a_model_that_the_endpoint_has_not, "no such model", "check the endpoint's url and model"),
        (a_budget_that_counts_nothing, "nothing spent could be counted", "prices: {machine_hour: …}"),
        (a_column_that_is_not_there, "'refrence', which does not exist", "there are id, prompt, reference"),
        (an_image_by_tag, "latest", "sha256"),
        (a_root_that_no_pod_sees, "no pod sees it", "root: s3://"),
        (a_gpu_that_is_none, "'h1000' is not known", "take one of"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_planted_mistake_is_caught_with_its_fix(
    sound: Sound, plant: Callable[[Sound], None], says: str, fix: str
) -> None:
    before = sound.check()
    plant(sound)
    said = sound.check()
    assert says not in before
    assert says in said and fix in said


def test_the_sound_recipe_has_none(sound: Sound) -> None:
    assert sound.check() == ""


def test_a_store_that_lets_a_second_writer_through_is_caught(sound: Sound, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "put_if_absent", lambda url, data: True)
    assert "wrong store refuses a second writer" in sound.check()


def test_the_command_ends_with_2(sound: Sound) -> None:
    tokens_without_a_row(sound)
    sound.check()
    done = CliRunner().invoke(app, ["plan", "--check", str(sound.folder / "recipe.yaml")])
    assert done.exit_code == 2
    assert "resize_token_embeddings" in done.output and "What is to do takes" in done.output

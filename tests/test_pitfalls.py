"""Each mistake planted into a sound model folder is found, and told with what mends it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import CHAT_TEMPLATE
from safetensors.torch import load_file, save_file

from raystill import pitfalls
from raystill.pitfalls import Remark

Plant = Callable[[Path], None]


def edit(name: str, **changes: Any) -> Plant:
    def plant(folder: Path) -> None:
        values = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(values | changes))

    return plant


def template(old: str, new: str) -> Plant:
    def plant(folder: Path) -> None:
        assert old in CHAT_TEMPLATE
        (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE.replace(old, new))

    return plant


def weights(folder: Path, **changes: Any) -> None:
    path = folder / "model.safetensors"
    save_file(load_file(path) | changes, path, {"format": "pt"})


def own_head(folder: Path) -> None:
    embedding = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    weights(folder, **{"lm_head.weight": embedding.clone() + 1})


def remarks(model: Path, folder: Path, *plants: Plant, learns: bool = True) -> list[Remark]:
    copy = folder / "model"
    shutil.copytree(model, copy)
    for plant in plants:
        plant(copy)
    return list(pitfalls.of_model(pitfalls.look(str(copy)), learns))


def test_a_sound_folder_has_none(tiny_model: Path, tmp_path: Path) -> None:
    assert remarks(tiny_model, tmp_path) == []


END = "{{ eos_token }}{% endif %}"
PROMPT = "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"


@pytest.mark.parametrize(
    ("plant", "wrong", "says"),
    [
        (template(END, "<|stop|>{% endif %}"), True, ["'<|stop|>'", "no token", "{{ eos_token }} (<|end|>)"]),
        (template(END, "{% endif %}"), False, ["ends an answer with nothing", "{{ eos_token }}"]),
        (template(END, "<|user|>{% endif %}"), False, ["ends an answer with <|user|>", '"eos_token_id": [0, 3]']),
        (template(PROMPT, ""), True, ["no generation prompt", "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"]),
        (
            template("\n{{ message['content'] }}", "\n{% if message['role'] == 'assistant' %}<think>\n</think>{% endif %}"
            "{{ message['content'] }}"),
            False,
            ["'<think>\\n</think>' between its generation prompt and an answer", "generation prompt"],
        ),
        (edit("tokenizer_config.json", pad_token="<|end|>"), False, ["padding token is the stop token", '"pad_token"']),
        (edit("config.json", vocab_size=400), False, ["vocabulary is padded", "of 400 rows", "nothing to do"]),
        (edit("config.json", vocab_size=300), True, ["300 rows", "model.resize_token_embeddings"]),
        (edit("config.json", tie_word_embeddings=False), True, ["would start random", '"tie_word_embeddings": true']),
        (own_head, False, ["which is dropped", '"tie_word_embeddings": false']),
    ],
    ids=[
        "end is no token", "no end", "engines stop elsewhere", "no generation prompt", "think block", "pad is stop",
        "padded vocabulary", "too few rows", "head missing", "head dropped",
    ],
)  # fmt: skip
def test_a_planted_mistake_is_found(
    tiny_model: Path, tmp_path: Path, plant: Plant, wrong: bool, says: list[str]
) -> None:
    (found,) = remarks(tiny_model, tmp_path, plant)
    assert found.wrong == wrong
    for words in says:
        assert words in found.text


def test_a_teacher_that_never_stops_is_wrong(tiny_model: Path, tmp_path: Path) -> None:
    (found,) = remarks(tiny_model, tmp_path, template(END, "<|user|>{% endif %}"), learns=False)
    assert found.wrong and "run on to their limit" in found.text


def test_two_openings_are_one_too_many(tiny_model: Path, tmp_path: Path) -> None:
    twice = template("{% for message in messages %}", "{{ bos_token }}{{ bos_token }}{% for message in messages %}")
    (found,) = remarks(tiny_model, tmp_path, edit("tokenizer_config.json", bos_token="<|system|>"), twice)
    assert found.wrong and "<|system|> twice" in found.text


def test_an_example_must_fit_the_context(tiny_model: Path) -> None:
    seen = pitfalls.look(str(tiny_model))
    assert pitfalls.length(seen, 512, chosen=True) is None
    found = pitfalls.length(seen, 2048, chosen=True)
    assert found is not None and found.wrong and "train: {max_length: 512}" in found.text
    default = pitfalls.length(seen, 2048, chosen=False)
    assert default is not None and not default.wrong


def test_base_and_instruct_must_end_alike(tiny_model: Path, tmp_path: Path) -> None:
    instruct = pitfalls.look(str(tiny_model))
    shutil.copytree(tiny_model, tmp_path / "base")
    edit("tokenizer_config.json", eos_token="<|pad|>")(tmp_path / "base")
    found = pitfalls.one_stop(instruct, pitfalls.look(str(tmp_path / "base")))
    assert found is not None and found.wrong
    assert "the teacher ends an answer with <|end|> and the student with <|pad|>" in found.text
    assert '"eos_token": "<|end|>"' in found.text
    assert pitfalls.one_stop(instruct, instruct) is None

from pathlib import Path

import pytest

from raystill import chat
from raystill.errors import ModelError
from raystill.recipe import Turn
from raystill.records import Message

SYSTEM, ASKED, ANSWER = Message("system", "Be kind."), Message("user", "Where is it?"), Message("assistant", "It left.")


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> chat.Tokenizer:
    return chat.load_tokenizer(str(tiny_model))


def supervised(tokenizer: chat.Tokenizer, encoded: chat.Encoded) -> str:
    kept = [i for i, on in zip(encoded.input_ids, encoded.loss_mask, strict=True) if on]
    return str(tokenizer.decode(kept))


def test_view_replaces_system_and_puts_examples_before_the_first_user_turn() -> None:
    shown = chat.view([SYSTEM, ASKED], "Be brief.", [Turn(user="Hi", assistant="Hello")])
    assert [(m.role, m.content) for m in shown] == [
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", "Where is it?"),
    ]
    assert chat.view([SYSTEM, ASKED], None, []) == [SYSTEM, ASKED]


def test_mask_covers_the_answer_and_exactly_one_stop_token(tokenizer: chat.Tokenizer) -> None:
    encoded = chat.encode(tokenizer, [SYSTEM, ASKED, ANSWER], [2])
    assert supervised(tokenizer, encoded) == "It left.<|end|>"
    prompt = chat.prompt_ids(tokenizer, [SYSTEM, ASKED])
    assert encoded.input_ids[: len(prompt)] == prompt
    assert encoded.loss_mask.index(True) == len(prompt)
    assert encoded.input_ids[-1] == tokenizer.eos_token_id


def test_every_loss_turn_is_supervised_and_nothing_else(tokenizer: chat.Tokenizer) -> None:
    encoded = chat.encode(
        tokenizer, [ASKED, ANSWER, Message("user", "And now?"), Message("assistant", "Here.")], [1, 3]
    )
    assert supervised(tokenizer, encoded) == "It left.<|end|>Here.<|end|>"
    whole = chat.text(tokenizer, [ASKED, ANSWER, Message("user", "And now?")], ask=True)
    assert tokenizer.decode(encoded.input_ids) == whole + "Here.<|end|>"


def test_given_completion_ids_are_taken_verbatim(tokenizer: chat.Tokenizer) -> None:
    letters = [tokenizer.convert_tokens_to_ids(c) for c in "Ok"]
    encoded = chat.encode(tokenizer, [ASKED, Message("assistant", "Ok")], [1], completion_ids=letters)
    assert encoded.input_ids[-3:] == [*letters, tokenizer.eos_token_id]
    stopped = chat.encode(tokenizer, [ASKED, Message("assistant", "Ok")], [1], [*letters, tokenizer.eos_token_id])
    assert stopped == encoded


def test_prompt_is_tokenised_as_when_asked_even_where_tokens_would_merge(tokenizer: chat.Tokenizer) -> None:
    answer = Message("assistant", "\n\nHello")
    encoded = chat.encode(tokenizer, [ASKED, answer], [1])
    prompt = chat.prompt_ids(tokenizer, [ASKED])
    assert encoded.input_ids[: len(prompt)] == prompt
    assert supervised(tokenizer, encoded) == "\n\nHello<|end|>"


def test_a_template_without_stop_token_gets_eos(tiny_model: Path) -> None:
    tokenizer = chat.load_tokenizer(str(tiny_model))
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}|{% endfor %}"
    assert supervised(tokenizer, chat.encode(tokenizer, [ASKED, ANSWER], [1])).endswith("<|end|>")


def test_a_stop_token_other_than_eos_is_found(tiny_model: Path) -> None:
    tokenizer = chat.load_tokenizer(str(tiny_model))
    tokenizer.chat_template = tokenizer.chat_template.replace("{{ eos_token }}", "<|system|>")
    assert chat.stop_id(tokenizer) == tokenizer.convert_tokens_to_ids("<|system|>")


def test_a_template_that_rewrites_earlier_turns_is_refused(tiny_model: Path) -> None:
    tokenizer = chat.load_tokenizer(str(tiny_model))
    tokenizer.chat_template = "{{ messages | length }}" + tokenizer.chat_template
    with pytest.raises(ModelError, match="turn 1"):
        chat.encode(tokenizer, [ASKED, ANSWER], [1])


def test_a_refusing_template_is_reported_without_content(tiny_model: Path) -> None:
    tokenizer = chat.load_tokenizer(str(tiny_model))
    tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(ModelError, match="no system role") as e:
        chat.prompt_ids(tokenizer, [SYSTEM, ASKED])
    assert "Be kind" not in str(e.value)


def test_tokenizer_without_template_is_refused_with_what_to_do(tiny_model: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (tmp_path / name).write_bytes((tiny_model / name).read_bytes())
    with pytest.raises(ModelError, match=r"chat_template\.jinja"):
        chat.load_tokenizer(str(tmp_path))


def test_unreadable_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="save_pretrained"):
        chat.load_tokenizer(str(tmp_path))


def test_fingerprint_sees_ids_not_template(tiny_model: Path) -> None:
    tokenizer = chat.load_tokenizer(str(tiny_model))
    before, template = chat.fingerprint(tokenizer), chat.template_hash(tokenizer)
    assert before == chat.tokenizer_fingerprint(str(tiny_model))
    tokenizer(["a", "longer text"], padding=True, truncation=True, max_length=2)
    tokenizer.chat_template = "x"
    assert chat.fingerprint(tokenizer) == before
    assert chat.template_hash(tokenizer) != template
    tokenizer.add_tokens(["<|new|>"])
    assert chat.fingerprint(tokenizer) != before

"""Messages to text, token ids and loss mask; the only place where a chat template is applied.

An example's ids are what the model sees when it is asked, followed by what it should answer: the prompt is tokenised alone,
as a server does it, and the answer ends with exactly one stop token. No tensors here, and no text in any error message.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from raystill.errors import ModelError
from raystill.recipe import Turn
from raystill.records import Message, Prompt

Tokenizer = Any
"""A transformers tokenizer; transformers ships no types."""

BACKEND_PARTS = ("added_tokens", "model", "normalizer", "pre_tokenizer", "decoder")
"""What of a tokenizer.json decides ids; padding and truncation are settings of a call."""


@dataclass(frozen=True)
class Encoded:
    """One conversation as the student learns it: T ids, and for each whether it carries loss."""

    input_ids: list[int]
    loss_mask: list[bool]


def load_tokenizer(folder: str) -> Tokenizer:
    """The tokenizer of a model folder or hub id. Raises ModelError when there is none or it has no chat template."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise ModelError(
            f"no tokenizer can be read from {folder} ({type(e).__name__}); raystill needs tokenizer.json and "
            "tokenizer_config.json beside config.json: give a folder as transformers' save_pretrained makes it"
        ) from e
    if not tokenizer.chat_template:
        raise ModelError(
            f"the tokenizer of {folder} has no chat template, so nobody knows how it marks who speaks; use the model's "
            f"instruct version, or save a template as {folder}/chat_template.jinja"
        )
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer of {folder} names no eos_token, so an answer could never end; "
            f"set eos_token in {folder}/tokenizer_config.json"
        )
    return tokenizer


def tokenizer_fingerprint(folder: str) -> str:
    """12 hex digits over what decides a tokenizer's ids: equal ones may exchange token ids."""
    return fingerprint(load_tokenizer(folder))


def fingerprint(tokenizer: Tokenizer) -> str:
    """As tokenizer_fingerprint, for a loaded tokenizer."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return _digest(sorted(tokenizer.get_vocab().items()))
    parts = json.loads(backend.to_str())
    return _digest([parts.get(name) for name in BACKEND_PARTS])


def template_hash(tokenizer: Tokenizer) -> str:
    """12 hex digits over the chat template."""
    return _digest(tokenizer.chat_template)


def view(messages: Sequence[Message], system: str | None, examples: Sequence[Turn]) -> list[Message]:
    """A model's view of neutral messages: `system` replaces theirs, `examples` come before the first user turn."""
    own = [m for m in messages if m.role == "system"]
    rest = [m for m in messages if m.role != "system"]
    head = own if system is None else [Message("system", system)]
    shots = [m for turn in examples for m in (Message("user", turn.user), Message("assistant", turn.assistant))]
    return [*head, *shots, *rest]


def text(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    tools: str | None = None,
    *,
    ask: bool,
    arguments: Mapping[str, Any] | None = None,
) -> str:
    """Messages as the template renders them; `ask` adds the opening of the assistant's turn, `arguments` are the template's."""
    from jinja2.exceptions import TemplateError

    try:
        rendered: str = tokenizer.apply_chat_template(
            [_plain(m) for m in messages],
            tools=json.loads(tools) if tools else None,
            tokenize=False,
            add_generation_prompt=ask,
            **(arguments or {}),
        )
    except TemplateError as e:
        roles = ", ".join(m.role for m in messages)
        raise ModelError(
            f"the chat template of {tokenizer.name_or_path} refuses a conversation of {roles}: {e}; "
            "many templates take no system message or want user and assistant in turn"
        ) from e
    return rendered


def prompt_ids(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    tools: str | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> list[int]:
    """Ids of what the model sees when it is asked to answer."""
    return _ids(tokenizer, text(tokenizer, messages, tools, ask=True, arguments=arguments))


def too_long(
    tokenizer: Tokenizer,
    prompts: Iterable[Prompt],
    system: str | None,
    examples: Sequence[Turn],
    arguments: Mapping[str, Any],
    context_tokens: int,
) -> list[str]:
    """Ids of the prompts that, seen like this, leave no token of a context for an answer."""
    views = ((p, view(p.messages, system, examples)) for p in prompts)
    return [p.id for p, seen in views if len(prompt_ids(tokenizer, seen, p.tools, arguments)) >= context_tokens]


def view_bytes(prompt: Prompt, system: str | None, examples: Sequence[Turn]) -> int:
    """Bytes of a prompt seen like this, its tools included and its template's own text left out."""
    said = [m.content for m in view(prompt.messages, system, examples)]
    return sum(len(text.encode()) for text in (*said, prompt.tools or ""))


@lru_cache(maxsize=16)
def stop_id(tokenizer: Tokenizer) -> int:
    """The token that ends an assistant's turn in this template; the tokenizer's eos where the template adds none."""
    answer = "answer"
    asked = [Message("user", "question")]
    whole = text(tokenizer, [*asked, Message("assistant", answer)], ask=False)
    ending = whole[whole.rindex(answer) + len(answer) :]
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    return next((i for i in _ids(tokenizer, ending) if i in special), int(tokenizer.eos_token_id))


def encode(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    loss_turns: Collection[int],
    completion_ids: Sequence[int] | None = None,
    tools: str | None = None,
) -> Encoded:
    """A conversation up to its last loss turn, with the mask over those turns' tokens, each ending with one stop token.

    `completion_ids` are the last loss turn's ids in this very tokenizer and are taken as they are. Raises ModelError when
    the template renders a turn otherwise inside the conversation than when it is asked for, since no span is then known.
    """
    ids: list[int] = []
    mask: list[bool] = []
    done = ""
    for turn in sorted(loss_turns):
        asked = text(tokenizer, messages[:turn], tools, ask=True)
        whole = text(tokenizer, messages[: turn + 1], tools, ask=False)
        if not (whole.startswith(asked) and asked.startswith(done)):
            raise ModelError(
                f"the chat template of {tokenizer.name_or_path} renders turn {turn} otherwise inside a conversation than "
                "when it is asked for, so its tokens cannot be told apart; use a template that only appends, or data with "
                "data.turns: each"
            )
        given = completion_ids if completion_ids and turn == max(loss_turns) else None
        prompt = _continued(tokenizer, ids, done, asked)
        answer = list(given) if given else _continued(tokenizer, [*ids, *prompt], asked, whole)
        answer = _stopped(answer, stop_id(tokenizer), {stop_id(tokenizer), tokenizer.eos_token_id})
        ids += prompt + answer
        mask += [False] * len(prompt) + [True] * len(answer)
        done = _through_stop(tokenizer, whole, asked)
    return Encoded(ids, mask)


def _continued(tokenizer: Tokenizer, ids: list[int], before: str, whole: str) -> list[int]:
    """Ids that follow `ids` (those of `before`) so that all are those of `whole`; the rest alone where tokens would merge."""
    together = _ids(tokenizer, whole)
    if together[: len(ids)] == ids:
        return together[len(ids) :]
    return _ids(tokenizer, whole[len(before) :])


def _stopped(answer: list[int], stop: int, stops: set[int]) -> list[int]:
    """The answer up to its first stop token, which is added when there is none."""
    for position, token in enumerate(answer):
        if token in stops:
            return answer[: position + 1]
    return [*answer, stop]


def _through_stop(tokenizer: Tokenizer, whole: str, asked: str) -> str:
    """The rendered conversation up to and including the stop token of its last turn."""
    stop = tokenizer.decode([stop_id(tokenizer)])
    position = whole.find(stop, len(asked))
    return whole if position < 0 else whole[: position + len(stop)]


def _plain(message: Message) -> dict[str, Any]:
    plain: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning is not None:
        plain["reasoning_content"] = message.reasoning
    if message.tool_calls is not None:
        plain["tool_calls"] = json.loads(message.tool_calls)
    if message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    return plain


def _ids(tokenizer: Tokenizer, rendered: str) -> list[int]:
    # The template has written every special token already.
    ids: list[int] = tokenizer(rendered, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]

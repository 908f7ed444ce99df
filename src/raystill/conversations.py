"""Conversations as data sets hold them, OpenAI's `messages` and ShareGPT's `conversations`, as lists of Message.

No chat template is applied here (chat.py does), and nothing is guessed: other values raise NotAConversation.
"""

import json
from collections.abc import Sequence
from typing import Any

from raystill.records import Message

ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant",
    "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "function_call": "assistant", "tool": "tool",
    "function": "tool", "observation": "tool", "function_response": "tool",
}  # fmt: skip
"""The neutral role of each name in use."""


class NotAConversation(ValueError):
    """Why a value is no conversation; never its content."""


def parse(value: Any) -> list[Message]:
    """The messages of one row: a list of objects, or that list as a JSON string (CSV). Raises NotAConversation."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise NotAConversation("the conversation is no JSON list") from None
    if not isinstance(value, list) or not value:
        raise NotAConversation("the conversation is empty" if value in ([], None) else "the conversation is no list")
    return [_message(item) for item in value]


def _message(item: Any) -> Message:
    if not isinstance(item, dict):
        raise NotAConversation("a message is no object")
    name = item.get("role", item.get("from"))
    role = ROLES.get(name) if isinstance(name, str) else None
    if role is None:
        raise NotAConversation("a message has no role" if name is None else "a message has an unknown role")
    content = item.get("content", item.get("value"))
    calls = _json(item.get("tool_calls"))
    if name == "function_call":
        content, calls = None, _json(content)
    text = _text(content)
    if text is None and calls is None:
        raise NotAConversation("a message has no content")
    reasoning = item.get("reasoning") or item.get("reasoning_content")
    call_id = item.get("tool_call_id")
    return Message(
        role,
        text or "",
        reasoning if isinstance(reasoning, str) else None,
        calls,
        call_id if isinstance(call_id, str) else None,
    )


def _text(content: Any) -> str | None:
    """Plain text, or the joined text parts of a multi-part content."""
    if content is None or isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(p, dict) and isinstance(p.get("text"), str) for p in content):
        return "".join(part["text"] for part in content)
    raise NotAConversation("a message's content is not text")


def _json(value: Any) -> str | None:
    """A JSON string of what is there; Parquet writes an absent list as null or empty."""
    if value is None or value in ([], {}, ""):
        return None
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def asked(messages: Sequence[Message]) -> tuple[list[Message], str | None]:
    """What is asked last and the data's own answer, None when the conversation ends with a question."""
    end = len(messages)
    while end and messages[end - 1].role == "assistant":
        end -= 1
    return _history(messages[:end]), _answer(messages[end:])


def each_asked(messages: Sequence[Message]) -> list[tuple[list[Message], str | None]]:
    """Every place where the assistant answers: the messages before it and its answer, in order."""
    ends = [
        i
        for i, m in enumerate(messages, 1)
        if m.role == "assistant" and (i == len(messages) or messages[i].role != "assistant")
    ]
    pairs = [asked(messages[:end]) for end in ends if any(m.role in ("user", "tool") for m in messages[:end])]
    return pairs or [asked(messages)]


def _history(messages: Sequence[Message]) -> list[Message]:
    if not any(m.role in ("user", "tool") for m in messages):
        raise NotAConversation("the conversation asks nothing before its answer")
    return list(messages)


def _answer(turn: Sequence[Message]) -> str | None:
    """Consecutive assistant messages are one answer; calls stand for themselves where there is no text."""
    texts = [m.content or m.tool_calls or "" for m in turn]
    return "\n".join(t for t in texts if t) or None

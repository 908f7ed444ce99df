"""What one request may ask for: pure functions over its parsed body, each a reason to refuse it or None.

They bound what a request costs, and leave whether a field makes sense to the engine. Nothing repeats what was sent.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

Request = dict[str, Any]

DEEPEST = 32
"""Deepest nesting of a request: a chat with tool schemas stays far below."""
MOST = {"n": 8, "best_of": 8, "logprobs": 20, "top_logprobs": 20, "prompt_logprobs": 0}
"""Largest value of fields whose cost grows with them."""
MOST_LISTED = {
    "messages": 1024, "stop": 16, "stop_token_ids": 64, "bad_words": 64, "logit_bias": 300, "tools": 128,
    "logprob_token_ids": 20,
}  # fmt: skip
"""Longest list or map: each entry costs at every token, or has its own template turn."""
LONGEST = {"model": 256, "stop": 256, "bad_words": 256, "user": 256}
"""Longest text, or text in a list, in characters: stops are searched for at every token."""
MOST_ANSWERS = 32
"""Answers that one request may ask for, its prompts times n: it counts as one against max_ongoing."""
REFUSED = (
    "chat_template", "chat_template_kwargs", "mm_processor_kwargs", "media_io_kwargs", "prompt_embeds",
    "structured_outputs", "kv_transfer_params", "vllm_xargs", "use_beam_search", "request_id", "priority",
)  # fmt: skip
"""Fields by which a caller would run a template, a grammar of any kind, a search or tensors of their own, or go first."""
FORMATS = (None, "text", "json_object", "json_schema")
SCHEMA_BYTES = 16 << 10
SCHEMA_REPEATS = 1000
"""Largest schema, and largest count in one: it becomes a grammar, which repeats what the schema counts."""
REPEATED = frozenset({"minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"})


def parsed(body: bytes) -> Request:
    """The body's JSON object. Raises ValueError, whose text says why, when there is none."""
    try:
        request = json.loads(body, parse_constant=_no_number)
        json.dumps(request, ensure_ascii=False).encode()  # fails on half a surrogate pair, which no tokenizer takes
    except (ValueError, RecursionError):
        raise ValueError("the body is not JSON in UTF-8") from None
    if not isinstance(request, dict):
        raise ValueError("the body is not a JSON object")
    return request


def mistake(request: Request, max_tokens: int) -> str | None:
    """Why this request is refused, if it is."""
    if _depth(request) > DEEPEST:
        return f"the body is nested deeper than {DEEPEST}"
    bounds: tuple[Callable[[Request], str | None], ...] = (
        refused,
        lambda asked: numbers(asked, max_tokens),
        lists,
        texts,
        answers,
        text_only,
        grammars,
    )
    return next((reason for bound in bounds if (reason := bound(request))), None)


def refused(request: Request) -> str | None:
    """Fields that run what the caller wrote."""
    return next((f"'{field}' is not accepted by this server" for field in REFUSED if request.get(field)), None)


def numbers(request: Request, max_tokens: int) -> str | None:
    """Numbers in range; text is refused because the engine would read it as a number."""
    for field, most in (*MOST.items(), ("max_tokens", max_tokens), ("max_completion_tokens", max_tokens)):
        value = request.get(field)
        if value is None or isinstance(value, bool):  # chat's logprobs is true or false
            continue
        if not isinstance(value, int | float) or not 0 <= value <= most:
            return f"'{field}' is not a number from 0 to {most}"
    return None


def lists(request: Request) -> str | None:
    """Lists and maps that are short enough."""
    for field, most in MOST_LISTED.items():
        value = request.get(field)
        if isinstance(value, list | dict) and len(value) > most:
            return f"'{field}' has more than {most} entries"
    return None


def texts(request: Request) -> str | None:
    """Texts that are short enough."""
    for field, most in LONGEST.items():
        value = request.get(field)
        if any(isinstance(text, str) and len(text) > most for text in (value if isinstance(value, list) else [value])):
            return f"'{field}' is longer than {most} characters"
    return None


def answers(request: Request) -> str | None:
    """Prompts times n. A list of token ids is one prompt."""
    prompt = request.get("prompt")
    prompts = len(prompt) if isinstance(prompt, list) and not all(isinstance(token, int) for token in prompt) else 1
    if prompts * (request.get("n") or 1) > MOST_ANSWERS:
        return f"prompts times 'n' are above {MOST_ANSWERS}; send several requests"
    return None


def text_only(request: Request) -> str | None:
    """No images, sound or files: the server would fetch or decode what the caller names."""
    messages = request.get("messages")
    for message in messages if isinstance(messages, list) else []:
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(content, str | list | None):
            return "a message's 'content' is text or a list of parts"
        for part in content if isinstance(content, list) else []:
            if not isinstance(part, dict) or part.get("type") not in ("text", "refusal"):
                return "only text parts are accepted in 'content'"
    return None


def grammars(request: Request) -> str | None:
    """Answers in a form that the caller writes: by a JSON schema of bounded size, its own or a tool's."""
    form = request.get("response_format")
    if (form.get("type") if isinstance(form, dict) else form) not in FORMATS:
        return f"'response_format' may only be {', '.join(str(f) for f in FORMATS[1:])} on this server"
    asked = [("response_format", form)] if isinstance(form, dict) else []
    tools = request.get("tools")
    asked += [("tools", tool) for tool in (tools if isinstance(tools, list) else [])]
    for field, schema in asked:
        if len(json.dumps(schema)) > SCHEMA_BYTES:
            return f"a schema in '{field}' is larger than {SCHEMA_BYTES} bytes"
        for word, value in _words(schema):
            if word == "patternProperties" or (word == "pattern" and isinstance(value, str)):
                return f"a schema in '{field}' may not say '{word}': a short regular expression can have a grammar of any size"
            if word in REPEATED and isinstance(value, int | float) and value > SCHEMA_REPEATS:
                return f"'{word}' in a schema in '{field}' is above {SCHEMA_REPEATS}"
    return None


def _words(schema: Any) -> Iterator[tuple[str, Any]]:
    """All keys of a schema with their values, without recursion."""
    for level in _levels(schema):
        for value in level:
            if isinstance(value, dict):
                yield from value.items()


def _depth(value: Any) -> int:
    """Nesting of a JSON value."""
    return sum(1 for _ in _levels(value))


def _levels(value: Any) -> Iterator[list[Any]]:
    """The values of each nesting level, without recursion: hostile input decides its depth."""
    level = [value]
    while level:
        yield level
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]


def _no_number(name: str) -> None:
    """NaN and the infinities, which Python's reader takes for JSON."""
    raise ValueError(name)

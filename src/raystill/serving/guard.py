"""What stands before the endpoint: bearer key, size and sense of each request. Pure ASGI, no Ray.

It answers in OpenAI's error form and never repeats what was sent. It bounds what one request may cost, and leaves whether
a field makes sense to the engine.
"""

import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

KEY = "RAYSTILL_API_KEY"
"""Environment variable that holds the endpoint's bearer key."""
OPEN = ("/", "/health")
"""Paths without a key: the playground's page, which holds nothing, and whether the endpoint is up."""
MODEL = "raystill.model"
"""Where a request's scope says which model it names, for who counts."""
MOST = {"n": 8, "best_of": 8, "logprobs": 20, "top_logprobs": 20, "prompt_logprobs": 0}
"""Largest value of request fields whose cost grows with them."""
MOST_LISTED = {"stop": 16, "stop_token_ids": 64, "bad_words": 64, "logit_bias": 300, "tools": 128}
"""Longest list or map: each entry costs at every token."""
MOST_ANSWERS = 32
"""Answers that one request may ask for, its prompts times n: it counts as one against max_ongoing."""
DEEPEST = 32
"""Deepest nesting of a request: a chat with tool schemas stays far below."""
REFUSED = (
    "chat_template", "chat_template_kwargs", "mm_processor_kwargs", "media_io_kwargs", "prompt_embeds",
    "structured_outputs", "kv_transfer_params", "vllm_xargs", "use_beam_search",
)  # fmt: skip
"""Fields by which a caller would run a template, a grammar, a search or tensors of their own in the server."""
GRAMMAR_FREE = {"response_format": (None, "text", "json_object"), "tool_choice": (None, "none", "auto")}
"""What these fields may say: anything else compiles a grammar that the caller wrote."""
RETRY_AFTER = b"1"
"""Seconds after which a request that found the queue full may come again: a short answer's time."""


class Rejected(Exception):
    """A request that must not reach an engine."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Guard:
    """ASGI middleware around the application."""

    def __init__(self, app: App, key: str | None, max_body_bytes: int, max_tokens: int) -> None:
        self.app, self.key = app, key
        self.max_body_bytes, self.max_tokens = max_body_bytes, max_tokens

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass what is well formed and allowed; answer the rest."""
        if scope["type"] != "http" or (scope["path"] in OPEN and scope["method"] in ("GET", "HEAD")):
            await self.app(scope, receive, send)
            return
        try:
            self._authorize(scope)
            body = await self._read(scope, receive) if scope["method"] == "POST" else b""
            if scope["method"] == "POST":
                scope[MODEL] = check(body, self.max_tokens).get("model")
        except Rejected as e:
            await _answer(send, e)
            return
        replayed = False

        async def replay() -> MutableMapping[str, Any]:
            nonlocal replayed
            if replayed:
                return await receive()
            replayed = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def answer(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start" and message["status"] in (429, 503):
                named = {name.lower() for name, _ in message.get("headers", [])}
                if b"retry-after" not in named:
                    message["headers"] = [*message.get("headers", []), (b"retry-after", RETRY_AFTER)]
            await send(message)

        await self.app(scope, replay, answer)

    def _authorize(self, scope: Scope) -> None:
        if self.key is None:
            return
        given = dict(scope["headers"]).get(b"authorization", b"")
        if not hmac.compare_digest(given, f"Bearer {self.key}".encode()):
            raise Rejected(401, "missing or wrong bearer key; send 'Authorization: Bearer KEY'")

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        too_large = Rejected(413, f"the request is larger than {self.max_body_bytes} bytes (serve.max_body_bytes)")
        if declared.isdigit() and int(declared) > self.max_body_bytes:
            raise too_large
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if len(body) > self.max_body_bytes:
                raise too_large
            if not message.get("more_body"):
                return bytes(body)


def check(body: bytes, max_tokens: int) -> dict[str, Any]:
    """What the body asks for. Raises Rejected unless that is a request whose cost is bounded."""
    try:
        request: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise Rejected(400, "the body is not JSON") from None
    if not isinstance(request, dict):
        raise Rejected(400, "the body is not a JSON object")
    if _depth(request) > DEEPEST:
        raise Rejected(400, f"the body is nested deeper than {DEEPEST}")
    for field in REFUSED:
        if request.get(field):
            raise Rejected(400, f"'{field}' is not accepted by this server")
    for field, allowed in GRAMMAR_FREE.items():
        value = request.get(field)
        if (value.get("type") if isinstance(value, dict) else value) not in allowed:
            raise Rejected(400, f"'{field}' may only be {' or '.join(str(a) for a in allowed[1:])} on this server")
    for field, most in (*MOST.items(), ("max_tokens", max_tokens), ("max_completion_tokens", max_tokens)):
        _bound(field, request.get(field), most)
    for field, most in MOST_LISTED.items():
        value = request.get(field)
        if isinstance(value, list | dict) and len(value) > most:
            raise Rejected(400, f"'{field}' has more than {most} entries")
    if _prompts(request.get("prompt")) * (request.get("n") or 1) > MOST_ANSWERS:
        raise Rejected(400, f"prompts times 'n' are above {MOST_ANSWERS}; send several requests")
    _text_only(request.get("messages"))
    return request


def _bound(field: str, value: Any, most: int) -> None:
    """A number in range, or nothing; text is refused because the engine would read it as a number."""
    if value is None or isinstance(value, bool):  # chat's logprobs is true or false
        return
    if not isinstance(value, int | float) or not 0 <= value <= most:
        raise Rejected(400, f"'{field}' is not a number from 0 to {most}")


def _prompts(prompt: Any) -> int:
    """How many prompts a completion asks for: a list of token ids is one."""
    if isinstance(prompt, list) and not all(isinstance(token, int) for token in prompt):
        return len(prompt)
    return 1


def _text_only(messages: Any) -> None:
    """Raise Rejected for images, sound and files: the server would fetch or decode what the caller names."""
    for message in messages if isinstance(messages, list) else []:
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else []:
            if not isinstance(part, dict) or part.get("type") not in ("text", "refusal"):
                raise Rejected(400, "only text parts are accepted in 'content'")


def _depth(value: Any) -> int:
    """Nesting of a JSON value, without recursion: hostile input decides its depth."""
    deepest, level = 0, [value]
    while level:
        deepest += 1
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return deepest


async def _answer(send: Send, rejected: Rejected) -> None:
    kind = "authentication_error" if rejected.status == 401 else "invalid_request_error"
    error = {"message": str(rejected), "type": kind, "code": rejected.status, "param": None}
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if rejected.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": rejected.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

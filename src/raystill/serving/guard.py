"""What stands before the endpoint: who asks, how much, for how long. Pure ASGI, no Ray.

It answers in OpenAI's error form and never repeats what was sent. A few paths need no key.
"""

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from raystill.serving import limits
from raystill.serving.keys import Allowance, Key, holder
from raystill.serving.usage import Tally, counted

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = ("/", "/health")
"""Paths without a key: the playground's page, which holds nothing, and whether the endpoint is up."""
MODEL, KEY_NAME = "raystill.model", "raystill.key"
"""Where a request's scope says which model it names, and by whose key it came."""
HEADERS = frozenset({b"x-request-timeout-seconds", b"x-request-disconnect-disabled"})
"""With these a caller would switch Ray Serve's time limit off, or keep an engine busy after hanging up."""
HERE = frozenset({b"127.0.0.1", b"localhost", b"[::1]"})
"""Hosts that an endpoint without keys may be asked as: any other is a web page whose name was made to lead here."""
BODY_S = 30.0
"""Longest time for a body to arrive: a slow one holds a place."""
RETRY_AFTER = "1"
"""Seconds after which a request that found the queue full may come again: a short answer's time."""
AWAY = "the model's queue is full, or it is starting; come again in a moment"
TYPES = {401: "authentication_error", 429: "rate_limit_error"}


@dataclass(frozen=True)
class Bounds:
    """What one request, and all together, may take."""

    max_body_bytes: int
    max_tokens: int
    timeout_s: float
    in_flight: int


class Rejected(Exception):
    """A request that must not reach an engine; wait_s is when it may come again."""

    def __init__(self, status: int, message: str, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.status, self.wait_s = status, wait_s


class Guard:
    """ASGI middleware around the application. Without keys everybody on this machine may ask."""

    def __init__(self, app: App, keys: Sequence[Key], bounds: Bounds) -> None:
        self.app, self.keys, self.bounds = app, keys, bounds
        self.allowances = {key.name: Allowance(key) for key in keys}
        self.in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass what is well formed and allowed; answer the rest."""
        if scope["type"] != "http" or (scope["path"] in OPEN and scope["method"] in ("GET", "HEAD")):
            await self.app(scope, receive, send)
            return
        answer = Answer(send)
        self.in_flight += 1
        try:
            async with asyncio.timeout(self.bounds.timeout_s):
                await self._pass(scope, receive, answer)
        except Rejected as e:
            await answer.refuse(e)
        except TimeoutError:
            await answer.refuse(Rejected(408, f"no whole answer in {self.bounds.timeout_s:g} s (serve.timeout_s)"))
        finally:
            self.in_flight -= 1
            await answer.close()

    async def _pass(self, scope: Scope, receive: Receive, answer: "Answer") -> None:
        key = self._caller(scope)
        if self.in_flight > self.bounds.in_flight:
            raise Rejected(503, "too many requests at once; come again in a moment", float(RETRY_AFTER))
        allowance = self.allowances[key.name] if key else None
        if allowance and (wait_s := allowance.wait_s()):
            raise Rejected(429, f"this key's minute is used up; come again in {wait_s:.0f} s", wait_s)
        if scope["method"] != "POST":
            await self.app(scope, receive, answer)
            return
        body = await self._read(scope, receive)
        try:
            request = limits.parsed(body)
        except ValueError as e:
            raise Rejected(400, str(e)) from None
        if refused := limits.mistake(request, self.bounds.max_tokens):
            raise Rejected(400, refused)
        scope[MODEL] = request.get("model")
        if allowance and allowance.tokens:
            body, hidden = counted(body, request)
            answer.tally = Tally(body, hidden)
        try:
            await self.app(scope, _replay(body, receive), answer)
        finally:
            if allowance and answer.tally:
                allowance.used(answer.tally.tokens())

    def _caller(self, scope: Scope) -> Key | None:
        headers = dict(scope["headers"])
        if sent := HEADERS & headers.keys():
            raise Rejected(400, f"the header {min(sent).decode()} is not accepted by this server")
        if not self.keys:
            name, _, port = headers.get(b"host", b"").rpartition(b":")
            if (name if port.isdigit() else headers.get(b"host", b"")) not in HERE:
                raise Rejected(403, "an endpoint without a key answers to 127.0.0.1 and localhost alone; give it one")
            return None
        key = holder(headers.get(b"authorization", b""), self.keys)
        if not key:
            raise Rejected(401, "missing or wrong bearer key; send 'Authorization: Bearer KEY'")
        scope[KEY_NAME] = key.name
        return key

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        most = self.bounds.max_body_bytes
        too_large = Rejected(413, f"the request is larger than {most} bytes (serve.max_body_bytes)")
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > most:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(BODY_S):
                while True:
                    message = await receive()
                    body += message.get("body", b"")
                    if len(body) > most:
                        raise too_large
                    if not message.get("more_body"):
                        return bytes(body)
        except TimeoutError:
            raise Rejected(408, f"the body did not arrive in {BODY_S:g} s") from None


class Answer:
    """What goes back: it notes how far the answer is, so that a broken stream ends with an error event and no [DONE]."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self.tally: Tally | None = None
        self.started = self.ended = False

    async def __call__(self, message: Message) -> None:
        """Pass one message on."""
        if self.ended:
            return
        if message["type"] == "http.response.start":
            if message["status"] == 503 and (b"content-type", b"application/json") not in message.get("headers", ()):
                await self.refuse(Rejected(503, AWAY, float(RETRY_AFTER)))  # Ray Serve's own is plain text
                return
            self.started = True
            self.tally = self.tally if message["status"] < 400 else None
        elif message["type"] == "http.response.body":
            self.ended = not message.get("more_body", False)
            if self.tally:
                message = {**message, "body": self.tally.seen(message.get("body", b""))}
        await self.send(message)

    async def refuse(self, rejected: Rejected) -> None:
        """The error as the whole answer, or as the end of one that has begun."""
        body = json.dumps(form(rejected.status, str(rejected))).encode()
        if self.ended:
            return
        if self.started:
            await self._end(b"data: " + body + b"\n\n")
            return
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if rejected.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        if rejected.wait_s is not None:
            headers.append((b"retry-after", str(math.ceil(rejected.wait_s)).encode()))
        self.started = True
        await self.send({"type": "http.response.start", "status": rejected.status, "headers": headers})
        await self._end(body)

    async def close(self) -> None:
        """End a stream that its maker has left: the caller must not take what came for a whole answer."""
        if self.started and not self.ended:
            await self.refuse(Rejected(500, "the model stopped in the middle of its answer; ask again"))

    async def _end(self, body: bytes) -> None:
        self.ended = True
        await self.send({"type": "http.response.body", "body": body})


def form(status: int, message: str) -> dict[str, Any]:
    """An error as OpenAI's clients read it."""
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "code": status, "param": None}}


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body once, then what still comes."""
    replayed = False

    async def replay() -> Message:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay

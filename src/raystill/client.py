"""An async client for OpenAI-compatible endpoints: ours, a gateway's or a vendor's.

Answers are streamed where the time to the first token is wanted, so that it is real. Failures are sorted once, here: what may
pass is tried again with jittered backoff, a refused key stops everything, and a request that can never succeed fails alone.
Prompts, answers and keys stay out of every message.
"""

import asyncio
import contextlib
import datetime
import email.utils
import itertools
import json
import math
import random
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from raystill.errors import RaystillError
from raystill.records import Message

if TYPE_CHECKING:
    import httpx

ATTEMPTS = 5
BACKOFF_S = 0.5
"""First wait; it doubles with each attempt, with jitter so that clients do not come back together."""
LONGEST_WAIT_S = 60.0
PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""Statuses that may be gone at the next attempt."""
REASONING = ("reasoning_content", "reasoning")
"""Where vendors put what a model thinks before it answers."""
DRAIN_S = 1.0
"""Longest wait for a stream's own end after its [DONE]: a connection whose answer was not read to the end is closed."""
POOL = 8
"""Connections of one pool: at both ends of a request httpcore compares all of a pool's with one another."""
LOCAL = ("127.0.0.1", "localhost", "[::1]")
"""Hosts asked directly even where HTTP_PROXY is set: a proxy elsewhere cannot reach them and must not see the key."""


class RequestFailed(Exception):
    """This request got no answer; its text is the reason, without any content, and status the endpoint's, if it said one."""

    def __init__(self, reason: str, status: int | None = None) -> None:
        super().__init__(reason)
        self.status = status


class Refused(RaystillError):
    """The endpoint refuses the key: no request can succeed."""

    exit_code = 3


@dataclass(frozen=True)
class Reply:
    """One answer. ttft_s is the time to the first token, elapsed_s to the last."""

    text: str
    finish_reason: str
    prompt_tokens: int
    output_tokens: int
    ttft_s: float
    elapsed_s: float
    reasoning: str | None = None
    tool_calls: str | None = None
    """A JSON list, as in a message."""
    probability: float | None = None
    """Its tokens' mean probability, where the request asked for `logprobs`."""


class Passing(Exception):
    """An attempt's failure that may pass: wait_s is what the server asks for, pieces how many of an answer had come."""

    def __init__(self, reason: str, status: int | None = None, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.wait_s = wait_s
        self.pieces = 0


class Client:
    """Requests to one endpoint, `at_once` of them in flight. Use it as an async context manager.

    A base_url without a path gets /v1, one with a path is taken as it is: vendors differ there. timeout_s bounds each
    attempt as a whole, and each silence of `stream`.
    """

    def __init__(self, base_url: str, key: str | None = None, timeout_s: float = 300.0, at_once: int = POOL) -> None:
        import httpx  # not above: a plan, which asks nobody, would wait a tenth of its time for it

        self.timeout_s = timeout_s
        self._pools = [
            httpx.AsyncClient(
                base_url=base_url.rstrip("/") + ("/" if urlsplit(base_url).path.strip("/") else "/v1/"),
                headers={"Authorization": f"Bearer {key}"} if key else {},
                timeout=timeout_s,
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=256),
                follow_redirects=False,
                mounts={f"all://{host}": None for host in LOCAL},
                verify=_tls(),
            )
            for _ in range(math.ceil(at_once / POOL))
        ]
        self._next = itertools.cycle(self._pools)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, e: BaseException | None, t: TracebackType | None
    ) -> None:
        await asyncio.gather(*(pool.aclose() for pool in self._pools))

    async def chat(
        self, model: str, messages: Sequence[Message], max_tokens: int, temperature: float = 0.0, **sampling: Any
    ) -> Reply:
        """One answer. Raises RequestFailed for this request alone, Refused when the key is wrong."""
        asked = request(model, messages, max_tokens, temperature, **sampling)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await self.attempt(asked)
            except Passing as e:
                if attempt == ATTEMPTS:
                    raise RequestFailed(str(e), e.status) from None
                await asyncio.sleep(backoff_s(attempt, e.wait_s))
        raise AssertionError("unreachable")

    async def stream(
        self, model: str, messages: Sequence[Message], max_tokens: int, temperature: float = 0.0
    ) -> AsyncIterator[str]:
        """One answer's pieces as they come, without a second attempt. Raises RequestFailed or Refused."""
        try:
            async for chunk in self._chunks(request(model, messages, max_tokens, temperature)):
                if piece := _delta(chunk).get("content"):
                    yield piece
        except Passing as e:
            raise RequestFailed(str(e), e.status) from None

    async def attempt(self, asked: dict[str, Any]) -> Reply:
        """One attempt at a request, without a second. Raises Passing, RequestFailed or Refused."""
        answer = Partial()
        try:
            async with asyncio.timeout(self.timeout_s):
                async for chunk in self._chunks(asked):
                    answer.add(chunk)
            return answer.reply()
        except TimeoutError:
            if answer.is_whole:  # only the stream's end is late
                return answer.reply()
            passing = Passing(f"no whole answer in {self.timeout_s:g} s")
        except Passing as e:
            passing = e
        passing.pieces = len(answer.text) + len(answer.reasoning)
        raise passing from None

    async def _chunks(self, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The stream's JSON chunks up to [DONE], or a whole answer as its only one; everything else is an error."""
        import httpx

        try:
            async with next(self._next).stream("POST", "chat/completions", json=body) as response:
                if response.status_code != 200:
                    raise _failure(response)
                if not body.get("stream"):
                    whole = _as_chunk(json.loads(await response.aread()))
                    if not _is_chunk(whole):
                        raise Passing("the answer is no chat completion")
                    yield whole
                    return
                lines = response.aiter_lines()
                async for line in lines:
                    if not line.startswith("data:"):
                        continue
                    data = line.removeprefix("data:").strip()
                    if data == "[DONE]":
                        with contextlib.suppress(TimeoutError, httpx.RequestError):
                            async with asyncio.timeout(DRAIN_S):
                                async for _ in lines:
                                    pass
                        return
                    chunk = json.loads(data)
                    if not _is_chunk(chunk):
                        raise Passing("the stream holds an error")
                    yield chunk
        except httpx.RequestError as e:
            raise Passing(type(e).__name__) from e
        except (ValueError, RecursionError):
            raise Passing("the answer holds broken JSON") from None
        raise Passing("the stream was cut")


@cache
def _tls() -> ssl.SSLContext:
    """One for all pools: it takes tens of milliseconds and a megabyte to make."""
    import httpx

    return httpx.create_ssl_context()


def _failure(response: "httpx.Response") -> Exception:
    status = response.status_code
    if status in (401, 403):
        return Refused(f"{response.url.host} refuses the key ({status}); set the right one and run again")
    if status in PASSING:
        return Passing(f"HTTP {status}", status, _retry_after_s(response.headers.get("Retry-After", "")))
    return RequestFailed(f"HTTP {status}", status)


def backoff_s(attempt: int, wait_s: float | None = None) -> float:
    """How long to wait after the so-manieth failed attempt, from 1; wait_s is what the server asks for."""
    wait_s = BACKOFF_S * 2 ** (attempt - 1) if wait_s is None else wait_s
    return min(LONGEST_WAIT_S, wait_s) * random.uniform(1.0, 1.5)


def _retry_after_s(header: str) -> float | None:
    """Seconds that Retry-After asks for, as a number or as a date; None when it says neither."""
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        at = email.utils.parsedate_to_datetime(header)
    except ValueError:
        return None
    if at.tzinfo is None:
        return None
    return max(0.0, (at - datetime.datetime.now(datetime.UTC)).total_seconds())


def _as_chunk(answer: Any) -> Any:
    """A whole answer in a chunk's shape; what is none stays what it is."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list):
        return answer
    return {**answer, "choices": [{**c, "delta": c.get("message")} if isinstance(c, dict) else c for c in choices]}


def _is_chunk(value: Any) -> bool:
    """Whether this JSON has a chunk's shape, so that a broken server fails one request and not the run."""
    if not isinstance(value, dict) or "error" in value:
        return False
    usage, choices = value.get("usage"), value.get("choices") or []
    counted = usage is None or (
        isinstance(usage, dict) and all(isinstance(usage.get(k), int) for k in ("prompt_tokens", "completion_tokens"))
    )
    return (
        counted
        and isinstance(choices, list)
        and all(
            isinstance(c, dict)
            and _is_text(c.get("finish_reason"))
            and _is_delta(c.get("delta"))
            and _is_logprobs(c.get("logprobs"))
            for c in choices
        )
    )


def _is_logprobs(value: Any) -> bool:
    if not value:
        return True
    tokens = (value.get("content") or []) if isinstance(value, dict) else None
    return isinstance(tokens, list) and all(
        isinstance(t, dict) and isinstance(t.get("logprob"), int | float) and t["logprob"] < 1 for t in tokens
    )


def _is_delta(value: Any) -> bool:
    if not value:
        return True
    if not isinstance(value, dict) or not all(_is_text(value.get(k)) for k in ("content", *REASONING)):
        return False
    calls = value.get("tool_calls") or []
    return isinstance(calls, list) and all(
        isinstance(c, dict)
        and isinstance(c.get("index", 0), int)
        and _is_text(c.get("id"))
        and isinstance(function := c.get("function") or {}, dict)
        and _is_text(function.get("name"))
        and _is_text(function.get("arguments"))
        for c in calls
    )


def _is_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def request(
    model: str,
    messages: Sequence[Message],
    max_tokens: int,
    temperature: float = 0.0,
    *,
    stream: bool = True,
    **sampling: Any,
) -> dict[str, Any]:
    """The body of a request for one answer; one that is not streamed costs both ends less, and has no time to first token."""
    return {
        "model": model,
        "messages": as_sent(messages),
        "max_tokens": max_tokens,
        "temperature": temperature,
        **({"stream": True, "stream_options": {"include_usage": True}} if stream else {}),
        **sampling,
    }


def as_sent(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages in OpenAI's form."""
    sent = [{k: v for k, v in asdict(m).items() if v is not None and k != "reasoning"} for m in messages]
    for message in sent:
        if "tool_calls" in message:
            message["tool_calls"] = json.loads(message["tool_calls"])
    return sent


def probability(tokens: Sequence[Mapping[str, Any]]) -> float | None:
    """The mean probability that a model gave its tokens, by their `logprob`; None without any."""
    return sum(math.exp(token["logprob"]) for token in tokens) / len(tokens) if tokens else None


@dataclass
class Partial:
    """An answer while its chunks come."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)
    tokens: list[dict[str, Any]] = field(default_factory=list)
    finish_reason: str | None = None
    usage: dict[str, int] | None = None
    ttft_s: float = 0.0
    started: float = field(default_factory=time.perf_counter)
    latest: float = 0.0

    @property
    def is_whole(self) -> bool:
        """Whether its end and its usage are there."""
        return self.finish_reason is not None and self.usage is not None

    def add(self, chunk: dict[str, Any]) -> None:
        """Take one chunk in."""
        self.latest = time.perf_counter()
        self.usage = chunk.get("usage") or self.usage
        delta = _delta(chunk)
        text, reasoning = delta.get("content"), next((delta[k] for k in REASONING if delta.get(k)), None)
        if text:
            self.text.append(text)
        if reasoning:
            self.reasoning.append(reasoning)
        for place, call in enumerate(delta.get("tool_calls") or []):
            self._call(call.get("index", place), call)
        if text or reasoning or delta.get("tool_calls"):
            self.ttft_s = self.ttft_s or time.perf_counter() - self.started
        if choices := chunk.get("choices"):
            self.finish_reason = choices[0].get("finish_reason") or self.finish_reason
            self.tokens += (choices[0].get("logprobs") or {}).get("content") or []

    def _call(self, index: int, call: dict[str, Any]) -> None:
        """A tool call comes in pieces: its id and name first, its arguments bit by bit."""
        whole = self.calls.setdefault(index, {"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
        whole["id"] = call.get("id") or whole["id"]
        function = call.get("function") or {}
        whole["function"]["name"] += function.get("name") or ""
        whole["function"]["arguments"] += function.get("arguments") or ""

    def reply(self) -> Reply:
        """The whole answer. Raises Passing when its end or its usage never came."""
        elapsed_s = self.latest - self.started
        if self.finish_reason is None or self.usage is None:
            raise Passing("the answer has no end or no usage")
        return Reply(
            text="".join(self.text),
            finish_reason=self.finish_reason,
            prompt_tokens=self.usage["prompt_tokens"],
            output_tokens=self.usage["completion_tokens"],
            ttft_s=self.ttft_s or elapsed_s,
            elapsed_s=elapsed_s,
            reasoning="".join(self.reasoning) or None,
            tool_calls=json.dumps([self.calls[i] for i in sorted(self.calls)]) if self.calls else None,
            probability=probability(self.tokens),
        )


def _delta(chunk: dict[str, Any]) -> dict[str, Any]:
    choices = chunk.get("choices") or []
    return (choices[0].get("delta") or {}) if choices else {}

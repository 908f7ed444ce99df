"""An async client for OpenAI-compatible endpoints: ours, a gateway's or a vendor's.

Every answer is streamed, so that the time to its first token is real. Failures are sorted once, here: what may pass is
tried again with jittered backoff, a refused key stops everything, and a request that can never succeed fails alone.
Prompts, answers and keys stay out of every message.
"""

import asyncio
import datetime
import email.utils
import json
import random
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self

import httpx

from raystill.errors import RaystillError
from raystill.records import Message

ATTEMPTS = 5
BACKOFF_S = 0.5
"""First wait; it doubles with each attempt, with jitter so that clients do not come back together."""
LONGEST_WAIT_S = 60.0
PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
"""Statuses that may be gone at the next attempt."""
LOCAL = ("127.0.0.1", "localhost", "[::1]")
"""Hosts asked directly even where HTTP_PROXY is set: a proxy elsewhere cannot reach them and must not see the key."""


class RequestFailed(Exception):
    """This request got no answer; its text is the reason, without any content."""


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


class _Passing(Exception):
    """A failure that may pass; wait_s is what the server asks for."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class Client:
    """Requests to one endpoint, over one connection pool. Use it as an async context manager.

    base_url may end in /v1 or not; timeout_s bounds each attempt of `chat` as a whole, and each silence of `stream`.
    """

    def __init__(self, base_url: str, key: str | None = None, timeout_s: float = 300.0) -> None:
        self.timeout_s = timeout_s
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
        self._http = httpx.AsyncClient(
            base_url=base_url.rstrip("/").removesuffix("/v1") + "/",
            headers=headers,
            timeout=timeout_s,
            limits=limits,
            follow_redirects=False,
            mounts={f"all://{host}": None for host in LOCAL},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, e: BaseException | None, t: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def chat(
        self, model: str, messages: Sequence[Message], max_tokens: int, temperature: float = 0.0, **sampling: Any
    ) -> Reply:
        """One answer. Raises RequestFailed for this request alone, Refused when the key is wrong."""
        body = _body(model, messages, max_tokens, temperature, sampling)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await self._once(body)
            except _Passing as e:
                if attempt == ATTEMPTS:
                    raise RequestFailed(str(e)) from None
                wait_s = BACKOFF_S * 2 ** (attempt - 1) if e.wait_s is None else e.wait_s
                await asyncio.sleep(min(LONGEST_WAIT_S, wait_s) * random.uniform(1.0, 1.5))
        raise AssertionError("unreachable")

    async def stream(
        self, model: str, messages: Sequence[Message], max_tokens: int, temperature: float = 0.0
    ) -> AsyncIterator[str]:
        """One answer's pieces as they come, without a second attempt. Raises RequestFailed or Refused."""
        try:
            async for chunk in self._chunks(_body(model, messages, max_tokens, temperature, {})):
                if piece := _piece(chunk):
                    yield piece
        except _Passing as e:
            raise RequestFailed(str(e)) from None

    async def _once(self, body: dict[str, Any]) -> Reply:
        pieces: list[str] = []
        finish_reason, usage, ttft_s = None, None, 0.0
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self.timeout_s):
                async for chunk in self._chunks(body):
                    usage = chunk.get("usage") or usage
                    if piece := _piece(chunk):
                        ttft_s = ttft_s or time.perf_counter() - started
                        pieces.append(piece)
                    if choices := chunk.get("choices"):
                        finish_reason = choices[0].get("finish_reason") or finish_reason
        except TimeoutError:
            raise _Passing(f"no whole answer in {self.timeout_s:g} s") from None
        elapsed_s = time.perf_counter() - started
        if finish_reason is None or usage is None:
            raise _Passing("the answer has no end or no usage")
        return Reply(
            text="".join(pieces),
            finish_reason=finish_reason,
            prompt_tokens=usage["prompt_tokens"],
            output_tokens=usage["completion_tokens"],
            ttft_s=ttft_s or elapsed_s,
            elapsed_s=elapsed_s,
        )

    async def _chunks(self, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The stream's JSON chunks up to [DONE]; everything else is an error."""
        try:
            async with self._http.stream("POST", "v1/chat/completions", json=body) as response:
                if response.status_code != 200:
                    raise _failure(response)
                async for line in response.aiter_lines():
                    if not line.startswith("data:"):
                        continue
                    data = line.removeprefix("data:").strip()
                    if data == "[DONE]":
                        return
                    chunk = json.loads(data)
                    if not _is_chunk(chunk):
                        raise _Passing("the stream holds an error")
                    yield chunk
        except httpx.RequestError as e:
            raise _Passing(type(e).__name__) from e
        except json.JSONDecodeError:
            raise _Passing("the stream holds broken JSON") from None
        raise _Passing("the stream was cut")


def _failure(response: httpx.Response) -> Exception:
    status = response.status_code
    if status in (401, 403):
        return Refused(f"{response.url.host} refuses the key ({status}); set the right one and run again")
    if status in PASSING:
        return _Passing(f"HTTP {status}", _retry_after_s(response.headers.get("Retry-After", "")))
    return RequestFailed(f"HTTP {status}")


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
        and all(isinstance(c, dict) and isinstance(c.get("delta") or {}, dict) for c in choices)
    )


def _body(
    model: str, messages: Sequence[Message], max_tokens: int, temperature: float, sampling: dict[str, Any]
) -> dict[str, Any]:
    asked = [{k: v for k, v in asdict(m).items() if v is not None and k != "reasoning"} for m in messages]
    for message in asked:
        if "tool_calls" in message:
            message["tool_calls"] = json.loads(message["tool_calls"])
    return {
        "model": model,
        "messages": asked,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
        **sampling,
    }


def _piece(chunk: dict[str, Any]) -> str:
    choices = chunk.get("choices") or []
    return (choices[0].get("delta") or {}).get("content") or "" if choices else ""

"""An OpenAI-compatible URL as teacher: one request per sample, under one rate, one budget and one breaker for the driver.

What may pass is tried again and marked transient in the end; what a prompt causes rejects the prompt; what every request
would meet (a refused key, an unknown model, a spent budget, an endpoint that stays down) stops the run.
"""

import asyncio
import hashlib
import json
import os
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from raystill import chat, recipe
from raystill.client import ATTEMPTS, LONGEST_WAIT_S, Client, Passing, Refused, Reply, RequestFailed, backoff_s, request
from raystill.errors import OverBudget, RaystillError, RecipeError, StageError
from raystill.rates import Breaker, Concurrency, Rate
from raystill.records import Generation, Message, Prompt
from raystill.teachers import RowError, failure, generation

FAILED_TRIES = 8
"""Single tries of an endpoint taken for down, before the run gives up: after five minutes of pauses."""
PROBE_TOKENS = 16
BYTES_PER_TOKEN = 4
"""For a first guess at a prompt's tokens; the endpoint's own count replaces it."""
_REDIRECTS = "redirects, which is never followed, since the key would go along; give the final address as url"
HOPELESS = {
    **dict.fromkeys((301, 302, 303, 307, 308), _REDIRECTS),
    402: "asks for payment; top up the account and run again: finished units are kept",
    404: "knows no such address or no such model; check the endpoint's url and model",
    405: "takes no chat completions at this address; check the endpoint's url",
}
"""Statuses that no other prompt would change."""
TRUNCATED = ("length", "max_tokens")


class Endpoint:
    """One endpoint. The caller sets `budget`, and `spent` to what earlier runs of the step have spent."""

    local: ClassVar[bool] = True
    dear: ClassVar[bool] = True

    def __init__(self, teacher: recipe.Teacher, model: str | None) -> None:
        assert teacher.endpoint is not None
        self.teacher, self.endpoint = teacher, teacher.endpoint
        self.host = urlsplit(self.endpoint.url).hostname
        self.spent = 0.0
        self.budget: float | None = None
        at_once = self.endpoint.concurrency
        self.client = Client(self.endpoint.url, key(self.endpoint), self.endpoint.timeout_s, at_once)
        self.rate = Rate(self.endpoint.requests_per_minute, self.endpoint.tokens_per_minute)
        self.concurrency = Concurrency(at_once)
        self.breaker = Breaker()
        self.stopped: RaystillError | None = None
        self.last_failure = ""

    async def answer(self, prompt: Prompt) -> list[Generation]:
        """`sampling.n` answers; samples without one are error rows, and RowError is raised when none has one.

        Raises Refused, OverBudget or StageError when the run must stop.
        """
        asked = [self._sample(prompt, i) for i in range(self.teacher.sampling.n)]
        # All are waited for, also when one stops the run: what is on its way is paid for.
        ended = await asyncio.gather(*asked, return_exceptions=True)
        rows, errors = list[Generation](), list[RowError]()
        for i, end in enumerate(ended):
            if isinstance(end, RowError):
                errors.append(end)
                rows.append(failure(prompt, str(end), sample_index=i, transient=end.transient, cost=end.cost))
            elif isinstance(end, BaseException):
                raise end
            else:
                rows.append(end)
        if len(errors) == len(rows):
            raise RowError(str(errors[0]), transient=errors[0].transient, cost=sum(e.cost for e in errors))
        return rows

    def close(self) -> None:
        """Connections end with their loop; `aclose` ends them in it."""

    async def aclose(self) -> None:
        """End the connections."""
        await self.client.__aexit__(None, None, None)

    async def _sample(self, prompt: Prompt, index: int) -> Generation:
        asked = self._request(prompt, index)
        paid = 0.0
        for attempt in range(1, ATTEMPTS + 1):
            try:
                reply, cost = await self._attempt(asked)
            except RowError as e:
                e.cost += paid
                raise
            paid += cost
            if isinstance(reply, Reply):
                return _generation(prompt, index, reply, paid)
            if attempt < ATTEMPTS:
                await asyncio.sleep(backoff_s(attempt, reply.wait_s))
        raise RowError(str(reply), transient=True, cost=paid)

    async def _attempt(self, asked: dict[str, Any]) -> tuple[Reply | Passing, float]:
        """One attempt when its turn has come, and its cost, which is booked before another may go."""
        guess = len(json.dumps(asked["messages"], ensure_ascii=False).encode()) // BYTES_PER_TOKEN
        tokens = guess + self.teacher.sampling.max_tokens
        async with self.concurrency.slot():
            probe = await self.breaker.passage()
            sent_at = await self.rate.take(tokens)
            self._stop_or_go()
            try:
                reply = await self.client.attempt(asked)
            except Passing as e:
                self.breaker.failed(probe)
                self.last_failure = str(e)
                self.concurrency.overloaded()
                if e.status == 429:
                    self.rate.refused(sent_at, min(LONGEST_WAIT_S, e.wait_s or 0.0))
                # The endpoint's own count never came: what had come of an answer is paid for, about a token a piece.
                return e, self._pay(guess, e.pieces) if e.pieces else 0.0
            except RequestFailed as e:
                self.breaker.passed()
                if e.status in HOPELESS:
                    self.stopped = StageError(f"{self.host} {HOPELESS[e.status]} (HTTP {e.status})")
                    raise self.stopped from None
                raise RowError(str(e)) from None
            except Refused as e:
                self.stopped = e
                raise
            self.breaker.passed()
            self.concurrency.answered(reply.ttft_s)
            self.rate.settle(tokens, reply.prompt_tokens + reply.output_tokens)
            return reply, self._pay(reply.prompt_tokens, reply.output_tokens)

    def _stop_or_go(self) -> None:
        """The last look before a request is sent."""
        if self.stopped is None and self.breaker.failed_probes >= FAILED_TRIES:
            self.stopped = StageError(
                f"{self.host} does not answer ({self.last_failure}), also not to {FAILED_TRIES} single tries over minutes; "
                "finished units are kept: run the same command when it is up again"
            )
        if self.stopped is None and self.budget is not None and self.spent >= self.budget:
            self.stopped = OverBudget(
                f"{self.host} has cost {self.spent:.2f} US dollars, and the budget is {self.budget:.2f}; finished units are "
                "kept: raise budget.usd and run again to go on"
            )
        if self.stopped is not None:
            raise self.stopped

    def _pay(self, prompt_tokens: int, output_tokens: int) -> float:
        price = self.endpoint.price
        cost = (prompt_tokens * price.input + output_tokens * price.output) / 1e6 if price else 0.0
        self.spent += cost
        return cost

    def _request(self, prompt: Prompt, index: int) -> dict[str, Any]:
        s = self.teacher.sampling
        # 31 bits: some vendors keep a seed in a signed 32-bit number. Samples differ by their seed.
        seed = int.from_bytes(hashlib.sha256(f"{s.seed}/{prompt.id}/{index}".encode()).digest()[:4]) >> 1
        optional: dict[str, Any] = {"seed": seed}
        if s.top_p < 1:
            optional["top_p"] = s.top_p
        if s.stop:
            optional["stop"] = s.stop
        if prompt.tools:
            optional["tools"] = json.loads(prompt.tools)
        if s.structured:
            schema = {"name": "answer", "schema": s.structured.json_schema, "strict": True}
            optional["response_format"] = {"type": "json_schema", "json_schema": schema}
        messages = chat.view(prompt.messages, self.teacher.system, self.teacher.examples)
        asked = request(self.endpoint.model, messages, s.max_tokens, s.temperature, **optional) | self.endpoint.extra
        return {k: v for k, v in asked.items() if v is not None}


def probe(teacher: recipe.Teacher) -> None:
    """Ask one short question, once. Raises RaystillError with what to do where no prompt would be answered."""
    short = teacher.sampling.model_copy(update={"max_tokens": PROBE_TOKENS, "n": 1, "structured": None})
    asked = Endpoint(teacher.model_copy(update={"sampling": short}), None)
    question = Prompt("probe", None, [Message("user", "Hello.")], None, "", "", "train", None, "{}")

    async def once() -> None:
        try:
            await asked.client.attempt(asked._request(question, 0))
        finally:
            await asked.aclose()

    try:
        asyncio.run(once())
    except RequestFailed as e:
        why = HOPELESS.get(e.status or 0, f"refuses a short question: {e}; check teacher.endpoint.extra")
        raise StageError(f"{asked.host} {why}") from None
    except Passing as e:
        raise StageError(f"{asked.host} does not answer now ({e}); check teacher.endpoint.url, or try later") from None


def key(endpoint: recipe.Endpoint) -> str | None:
    """The endpoint's key, or None where it needs none. Raises RecipeError when the recipe's place for it holds none."""
    if endpoint.key_env:
        where, fix = f"the environment variable {endpoint.key_env}", f"type: export {endpoint.key_env}=…"
        found = os.environ.get(endpoint.key_env, "")
    elif endpoint.key_file:
        where, fix = f"the file {endpoint.key_file}", "write the key into it"
        try:
            found = Path(endpoint.key_file).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError, RuntimeError):
            found = ""
    else:
        return None
    found = found.strip()
    if not found:
        raise RecipeError(f"{where} holds no key for the endpoint; {fix}")
    if not (found.isascii() and found.isprintable()) or " " in found:
        raise RecipeError(f"{where} holds more than a key; it must be one word of ASCII letters, digits and signs")
    return found


def _generation(prompt: Prompt, index: int, reply: Reply, cost: float) -> Generation:
    answer = {
        "sample_index": index,
        "text": reply.text.strip(),
        "reasoning": reply.reasoning,
        "tool_calls": reply.tool_calls,
        "prompt_tokens": reply.prompt_tokens,
        "output_tokens": reply.output_tokens,
        "elapsed_s": reply.elapsed_s,
        "cost": cost,
    }
    if reply.finish_reason in ("content_filter", "error"):
        # What had come is no answer to learn from.
        answer |= {"text": "", "reasoning": None, "tool_calls": None, "transient": reply.finish_reason == "error"}
        return failure(prompt, f"the endpoint ended the answer: {reply.finish_reason}", **answer)
    return generation(prompt, finish_reason="length" if reply.finish_reason in TRUNCATED else "stop", **answer)

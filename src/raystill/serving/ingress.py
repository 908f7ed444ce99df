"""The endpoint's ingress: what a recipe's `serve` says of who answers. A request that names a model gets that model.

Under the public name shares of users have a model each (canary), and the teacher may stand behind the student (fallback);
several models answer beside each other (compare); requests are kept where their sender says so (capture).
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from fastapi import HTTPException, Request
from fastapi.responses import JSONResponse
from ray.llm._internal.serve.core.configs.openai_api_models import (
    ChatCompletionRequest,
    ErrorResponse,
    ModelCard,
    OpenAIHTTPException,
)
from ray.llm._internal.serve.core.ingress.utils import _sanitize_chat_completion_request as plain
from ray.serve.handle import DeploymentHandle
from vllm.entrypoints.generate.base.protocol import StreamOptions

from raystill import chat, client, conversations
from raystill.metrics.compare import TEACHER
from raystill.records import Message
from raystill.serving import arms, canary, capture, fallback
from raystill.serving.compare import Told, comparison
from raystill.serving.failures import KINDS, said
from raystill.serving.machine_time import Meter, Spent
from raystill.serving.routing import Routing
from raystill.serving.waking import WakingIngress

CHAT = "chat"
DONE = "data: [DONE]\n\n"
Pieces = AsyncGenerator[Any, None]
"""An answer as Ray Serve LLM's servers give it: one response, or lists of a stream's events."""


class Comparison(ChatCompletionRequest):  # type: ignore[misc]
    """A chat request to several models; without `models` to all."""

    models: list[str] | None = None


class Ingress(WakingIngress):
    """`routing` says what of this is on."""

    def __init__(
        self,
        llm_deployments: dict[str, DeploymentHandle],
        model_cards: dict[str, ModelCard],
        *,
        routing: Routing,
        **options: Any,
    ) -> None:
        super().__init__(llm_deployments, model_cards, **options)
        self.routing = routing
        self.meters = {name: Meter() for name in llm_deployments}
        self.arms = {name: arms.Arm(name) for name in routing.arms}
        self.judge = fallback.Judge(routing.fallback, routing.task) if routing.fallback and routing.task else None
        self.shelf = capture.Shelf(routing.capture) if routing.capture else None
        if name := routing.public_name:
            self._model_cards[name] = ModelCard(
                id=name, object="model", owned_by="raystill", permission=[], metadata={}
            )

    def __del__(self) -> None:
        if self.shelf:
            self.shelf.close()

    async def compare(self, body: Comparison, request: Request) -> JSONResponse:
        """One prompt to several models at once. Raises HTTPException for a model that is not there."""
        names = list(dict.fromkeys(body.models or self.meters))
        if (body.n or 1) > 1:
            raise HTTPException(400, "'n' is 1 here: each model gives one answer")
        if gone := set(names) - set(self.meters):
            raise HTTPException(404, f"no model '{min(gone)}'; there are: {', '.join(self.meters)}")
        told = await asyncio.gather(*(self._told(name, body, request) for name in names))
        task = self.routing.task if self.routing.reads else None
        return JSONResponse(comparison(told, task, self.routing.prices))

    async def stats(self) -> dict[str, Any]:
        """What has come of requests since this ingress started."""
        return {
            "public_name": self.routing.public_name,
            "arms": {name: {"share": self.routing.arms[name], **arm.stats()} for name, arm in self.arms.items()},
            "fallback": self.judge and self.judge.stats(),
            "capture": self.shelf and {"kept": self.shelf.kept, "lost": self.shelf.lost},
        }

    async def _get_response(self, *, body: Any, **request: Any) -> Pieces:
        public = self.routing.public_name and body.model == self.routing.public_name
        pieces = self._public(body, request) if public else self._one(body, request, Spent())
        if self.shelf and request["call_method"] == CHAT and capture.consents(request["raw_request"].headers):
            pieces = self._kept(body, pieces, self.shelf)
        async with contextlib.aclosing(pieces):
            if body.stream:
                async for piece in pieces:
                    yield piece
                return
            whole = [piece async for piece in pieces]
        for piece in whole:  # its reader takes the one piece and leaves, so that all is noted before
            yield piece

    async def _one(self, body: Any, request: dict[str, Any], spent: Spent) -> Pieces:
        """One model's answer. Raises OpenAIHTTPException where the model tells an error instead.

        A stream's [DONE] is left to Ray Serve LLM, which sends it last: callers hang up at it, and all must be noted by then.
        """
        name = await self._get_model_id(body.model)
        with self.meters[name].request(spent):
            async for piece in super()._get_response(body=body, **request):
                first = piece[0] if isinstance(piece, list) else piece
                if isinstance(first, ErrorResponse):
                    raise OpenAIHTTPException(first.error.code, first.error.message, first.error.type)
                if first != DONE:
                    yield piece

    async def _public(self, body: Any, request: dict[str, Any]) -> Pieces:
        """The answer of whoever has this user."""
        name = canary.arm(self.routing.arms, body.user)
        behind = self.judge if name == self.routing.student else None
        if behind and request["call_method"] != CHAT:
            raise HTTPException(400, f"'{body.model}' judges chats; ask /v1/chat/completions, or name a model")
        with self.arms[name].request():
            asked = self._as_seen_by(name, body)
            pieces = self._judged(body, request, behind) if behind else self._one(asked, request, Spent())
            async with contextlib.aclosing(pieces):
                async for piece in pieces:
                    yield piece

    async def _judged(self, body: Any, request: dict[str, Any], judge: fallback.Judge) -> Pieces:
        """The student's answer, or the teacher's where that is not good enough."""
        by_student, by_teacher = Spent(), Spent()
        asked = self._as_seen_by(self.routing.student, body, stream=False, stream_options=None, logprobs=True)
        (response,) = [piece async for piece in self._one(asked, request, by_student)]
        outcome = judge.outcome(_messages(body), response.model_dump())
        if outcome != fallback.KEPT:
            async for piece in self._one(self._as_seen_by(TEACHER, body), request, by_teacher):
                yield piece
        else:
            for choice in response.choices if not body.logprobs else []:
                choice.logprobs = None
            usage = bool(body.stream_options and body.stream_options.include_usage)
            for piece in fallback.as_events(response.model_dump(), usage) if body.stream else [response]:
                yield piece
        judge.note(outcome, by_student.machine_s, by_teacher.machine_s)
        arms.judged(outcome, judge.stats()["saved"])

    async def _told(self, name: str, body: Comparison, request: Request) -> Told:
        """What one model says to a comparison."""
        asked = self._as_seen_by(name, body, stream=True, stream_options=StreamOptions(include_usage=True))
        answer, spent = client.Partial(), Spent()
        try:
            async for piece in self._one(asked, {"call_method": CHAT, "raw_request": request}, spent):
                for chunk in _chunks(piece):
                    answer.add(chunk)
            return Told(name, answer.reply(), spent.machine_s)
        except KINDS as e:
            return Told(name, None, spent.machine_s, said(e)[1])
        except client.Passing as e:
            return Told(name, None, spent.machine_s, str(e))

    async def _kept(self, body: Any, pieces: Pieces, shelf: capture.Shelf) -> Pieces:
        """An answer's pieces; when they have come, the request is kept with them, its first choice where it asks for more."""
        tools = [tool.model_dump(exclude_none=True) for tool in body.tools or []]
        request = {"messages": [*plain(body).messages], "tools": tools}
        model, text = "", []
        async for piece in pieces:
            for answer in _chunks(piece):
                model = answer["model"]
                first = [c.get("message") or c["delta"] for c in answer["choices"] if c["index"] == 0]
                text += [message.get("content") or "" for message in first]
            yield piece
        shelf.add(request, "".join(text), model)

    def _as_seen_by(self, name: str, body: Any, **changes: Any) -> Any:
        """A request to one model, as the run showed its prompts to it: with its own system prompt and examples."""
        system, examples = self.routing.views.get(name, (None, []))
        if isinstance(body, ChatCompletionRequest) and (system is not None or examples):
            changes["messages"] = client.as_sent(chat.view(_messages(body), system, examples))
        return body.model_copy(update={"model": name, **changes})


def _messages(body: ChatCompletionRequest) -> list[Message]:
    """A request's messages. Raises HTTPException for what is no conversation."""
    try:
        return conversations.parse(plain(body).messages)
    except conversations.NotAConversation as e:
        raise HTTPException(400, str(e)) from None


def _chunks(piece: Any) -> Iterator[dict[str, Any]]:
    """A piece's JSON: one response, or each event of a stream."""
    if not isinstance(piece, list | str):
        yield piece.model_dump()
        return
    for event in "".join(piece).split("\n\n"):
        if event:
            yield json.loads(event.removeprefix("data: "))

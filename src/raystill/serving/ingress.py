"""Ray Serve LLM's ingress, and what a recipe's `serve` says of who answers: one name for several models, the teacher behind
the student, several models beside each other, requests that are kept. A request that names a model gets that model.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from fastapi import HTTPException, Request
from fastapi.responses import JSONResponse
from ray.exceptions import RayError
from ray.llm._internal.serve.core.configs.openai_api_models import (
    ChatCompletionRequest,
    ErrorResponse,
    ModelCard,
    OpenAIHTTPException,
)
from ray.llm._internal.serve.core.ingress.utils import _sanitize_chat_completion_request as plain
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.llm.ingress import OpenAiIngress

from raystill import chat, client, conversations
from raystill.serving import arms, canary, capture, compare, fallback
from raystill.serving.meter import Meter, Spent
from raystill.serving.routing import Routing

CHAT = "chat"


class Comparison(ChatCompletionRequest):  # type: ignore[misc]
    """A chat request to several models; without `models` to all."""

    models: list[str] | None = None


class Ingress(OpenAiIngress):  # type: ignore[misc]
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
        self.judge = routing.fallback and fallback.Judge(routing.fallback, routing.task)
        self.shelf = capture.Shelf(routing.capture) if routing.capture else None
        if routing.arms:
            self._model_cards[routing.public_name] = ModelCard(
                id=routing.public_name, object="model", owned_by="raystill", permission=[], metadata={}
            )

    def __del__(self) -> None:
        if self.shelf:
            self.shelf.close()

    async def compare(self, body: Comparison, request: Request) -> JSONResponse:
        """One prompt to several models at once. Raises HTTPException for a model that is not there."""
        names = list(dict.fromkeys(body.models or self.meters))
        if (body.n or 1) > 1:
            raise HTTPException(400, "'n' is 1 here: each model gives one answer")
        for name in names:
            if name not in self.meters:
                raise HTTPException(404, f"there is no model '{name}'; there are: {', '.join(self.meters)}")
        told = await asyncio.gather(*(self._told(name, body, request) for name in names))
        task = self.routing.task if self.routing.reads else None
        return JSONResponse(compare.comparison(told, task, self.routing.prices))

    async def stats(self) -> dict[str, Any]:
        """What has come of requests under the public name since this ingress started."""
        return {
            "public_name": self.routing.public_name,
            "arms": {name: {"share": self.routing.arms[name], **arm.stats()} for name, arm in self.arms.items()},
            "fallback": self.judge and self.judge.stats(),
            "capture": self.shelf and {"kept": self.shelf.kept, "lost": self.shelf.lost},
        }

    async def _get_response(
        self, *, body: Any, call_method: str, raw_request: Request | None = None
    ) -> AsyncIterator[Any]:
        public = self.arms and body.model == self.routing.public_name
        answer = self._public if public else self._one
        pieces = answer(body, call_method, raw_request, Spent())
        if self.shelf and call_method == CHAT and raw_request and capture.consents(raw_request.headers):
            pieces = self._kept(plain(body), pieces, self.shelf)
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                yield piece

    async def _one(self, body: Any, call_method: str, raw_request: Request | None, spent: Spent) -> AsyncIterator[Any]:
        """One model's answer. Raises OpenAIHTTPException where the model gives an error instead."""
        name = await self._get_model_id(body.model)
        answer = super()._get_response(body=body, call_method=call_method, raw_request=raw_request)
        with self.meters[name].request(spent):
            async for piece in answer:
                first = piece[0] if isinstance(piece, list) else piece
                if isinstance(first, ErrorResponse):
                    raise OpenAIHTTPException(first.error.code, first.error.message, first.error.type)
                yield piece

    async def _public(
        self, body: Any, call_method: str, raw_request: Request | None, spent: Spent
    ) -> AsyncIterator[Any]:
        """The answer of whoever has this user."""
        name = canary.arm(self.routing.arms, body.user)
        behind = self.judge if name == self.routing.student else None
        if behind and call_method != CHAT:
            raise HTTPException(400, f"'{body.model}' judges chat answers; ask /v1/chat/completions, or name a model")
        with self.arms[name].request():
            if behind:
                pieces = self._judged(body, raw_request, behind)
            else:
                pieces = self._one(self._as_seen_by(name, body), call_method, raw_request, spent)
            async with contextlib.aclosing(pieces):
                async for piece in pieces:
                    yield piece

    async def _judged(self, body: Any, raw_request: Request | None, judge: fallback.Judge) -> AsyncIterator[Any]:
        """The student's answer, or the teacher's where that is not good enough."""
        by_student, by_teacher = Spent(), Spent()
        whole = self._as_seen_by(judge.student, body, stream=False, stream_options=None, logprobs=True)
        (response,) = [piece async for piece in self._one(whole, CHAT, raw_request, by_student)]
        answer = response.model_dump()
        outcome = judge.outcome(conversations.parse(body.messages), answer)
        try:
            if outcome != fallback.KEPT:
                async for piece in self._one(self._as_seen_by(TEACHER, body), CHAT, raw_request, by_teacher):
                    yield piece
                return
            answer = answer if body.logprobs else fallback.without_logprobs(answer)
            if body.stream:
                for event in fallback.as_events(answer, bool(body.stream_options and body.stream_options.include_usage)):
                    yield event
            else:
                yield type(response).model_validate(answer)
        finally:
            judge.note(outcome, by_student.machine_s, by_teacher.machine_s)
            arms.judged(outcome, judge.stats()["saved"])

    async def _told(self, name: str, body: Comparison, request: Request) -> compare.Told:
        """What one model says to a comparison."""
        asked = self._as_seen_by(name, body, stream=True, stream_options={"include_usage": True})
        answer, spent = client.Partial(), Spent()
        try:
            async for piece in self._one(asked, CHAT, request, spent):
                for chunk in _chunks(piece):
                    answer.add(chunk)
            return compare.Told(name, answer.reply(), spent.machine_s)
        except (HTTPException, OpenAIHTTPException, RayError, RayServeException, client.Passing) as e:
            return compare.Told(name, None, spent.machine_s, _why(e))

    async def _kept(self, body: Any, pieces: AsyncIterator[Any], shelf: capture.Shelf) -> AsyncIterator[Any]:
        """An answer's pieces; when they are whole, the request is kept with them."""
        ...

    def _as_seen_by(self, name: str, body: Any, **changes: Any) -> Any:
        """A request to one model: a chat is seen as the run showed it, with the model's own system prompt and examples."""
        ...


def _chunks(piece: Any) -> Iterator[Mapping[str, Any]]:
    """The JSON of a piece of a stream, which is a list of events."""
    for event in "".join(piece).split("\n\n"):
        if event and event != "data: [DONE]":
            yield json.loads(event.removeprefix("data: "))

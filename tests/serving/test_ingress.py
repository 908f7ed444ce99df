"""The ingress over fake models: who is asked, what comes back, streaming and not, and what is noted of it."""

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from fastapi import FastAPI
from ray.exceptions import RayActorError
from ray.llm._internal.serve.core.configs.openai_api_models import (
    ChatCompletionResponse,
    ErrorInfo,
    ErrorResponse,
    ModelCard,
)

from raystill import recipe, tasks
from raystill.recipe import Capture, Fallback, Prices, Turn
from raystill.serving import ingress as module
from raystill.serving.failures import KINDS, in_openais_form
from raystill.serving.routing import Routing

pytestmark = pytest.mark.slow
LABELS = recipe.Task(kind="own", parse=recipe.Parse(choices=["refund", "delivery"]))
TASK = tasks.load(LABELS, set())
HELLO = [{"role": "user", "content": "where is my parcel?"}]
USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}


class Fake:
    """A model's handle: always the same answer with the same probability, or an error."""

    def __init__(self, name: str, text: str = "delivery", probability: float = 0.9) -> None:
        self.name, self.text, self.probability = name, text, probability
        self.asked: list[Any] = []
        self.error: Any = None
        self.gate: asyncio.Event | None = None

    def options(self, **_: Any) -> "Fake":
        return self

    @property
    def chat(self) -> Any:
        return self

    completions = chat

    def remote(self, body: Any, _: Any) -> "Answer":
        self.asked.append(body)
        return Answer(self._answer(body))

    async def _answer(self, body: Any) -> AsyncIterator[Any]:
        if self.gate:
            await self.gate.wait()
        if isinstance(self.error, Exception):
            raise self.error
        if self.error:
            yield [self.error] if body.stream else self.error
            return
        words = re.findall(r" ?[^ ]+", self.text)
        tokens = [{"token": w, "logprob": math.log(self.probability), "top_logprobs": []} for w in words]
        head = {"id": "chatcmpl-1", "created": 1, "model": self.name}
        if not body.stream:
            told = {"content": tokens} if body.logprobs else None
            message = {"role": "assistant", "content": self.text}
            choices = [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": told}]
            yield ChatCompletionResponse(**head, choices=choices, usage=USAGE)
            return
        for word, end in zip(words, [None] * (len(words) - 1) + ["stop"], strict=True):
            choice = {"index": 0, "delta": {"content": word}, "finish_reason": end}
            yield [f"data: {json.dumps({**head, 'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n"]
        if body.stream_options and body.stream_options.include_usage:
            yield [f"data: {json.dumps({**head, 'choices': [], 'usage': USAGE})}\n\n"]
        yield ["data: [DONE]\n\n"]


class Answer:
    """Pieces that can be stopped, as Ray Serve's are."""

    def __init__(self, pieces: AsyncIterator[Any]) -> None:
        self.pieces = pieces

    def __aiter__(self) -> AsyncIterator[Any]:
        return self.pieces

    def cancel(self) -> None:
        """The engine stops."""


class World:
    """An ingress over fakes, and an openai client of it."""

    def __init__(self, *models: Fake, **routing: Any) -> None:
        self.models = {model.name: model for model in models}
        cards = {n: ModelCard(id=n, object="model", owned_by="x", permission=[], metadata={}) for n in self.models}
        self.ingress = module.Ingress(self.models, cards, idle_s={}, routing=Routing(**routing))
        app = FastAPI()
        for kind in KINDS:
            app.add_exception_handler(kind, in_openais_form)
        app.get("/v1/models")(self.ingress.models)
        app.post("/v1/chat/completions")(self.ingress.chat)
        app.post("/v1/completions")(self.ingress.completions)
        app.post("/v1/compare")(self.ingress.compare)
        app.get("/v1/routing")(self.ingress.stats)
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test/v1/")
        self.openai = openai.AsyncOpenAI(
            base_url="http://test/v1", api_key="none", http_client=self.http, max_retries=0
        )

    async def chat(self, model: str = "auto", **more: Any) -> Any:
        return await self.openai.chat.completions.create(model=model, messages=HELLO, **more)

    async def streamed(self, model: str = "auto", **more: Any) -> list[Any]:
        return [chunk async for chunk in await self.chat(model, stream=True, **more)]


Told = list[tuple[str, dict[str, str]]]


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """Ray's counters need a cluster; what they would be told is noted."""
    told: Told = []

    class Metric:
        def __init__(self, name: str, *_: Any) -> None:
            self.name = name

        def inc(self, _: float, tags: dict[str, str]) -> None:
            told.append((self.name, tags))

        def observe(self, *_: Any) -> None: ...

        def set(self, _: float) -> None: ...

    for kind in ("Counter", "Gauge", "Histogram"):
        monkeypatch.setattr(module.arms.metrics, kind, Metric)
    for made in (module.arms._requests, module.arms._seconds, module.arms._judged, module.arms._saved):
        made.cache_clear()
    return told


def text(chunks: list[Any]) -> str:
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


def judged(below: float | None = None, **more: Any) -> dict[str, Any]:
    config = Fallback(below=below)
    return {
        "public_name": "auto",
        "arms": {"student": 1.0},
        "student": "student",
        "fallback": config,
        "task": TASK,
        **more,
    }


def test_a_request_that_names_a_model_gets_it_and_an_unknown_one_is_a_404() -> None:
    async def go() -> None:
        world = World(Fake("teacher"), Fake("student", "refund"))
        assert (await world.chat("student")).choices[0].message.content == "refund"
        assert text(await world.streamed("teacher")) == "delivery"
        with pytest.raises(openai.NotFoundError) as e:
            await world.chat("auto")
        assert e.value.body["type"] == "invalid_request_error"  # type: ignore[index]
        assert [m.id async for m in world.openai.models.list()] == ["teacher", "student"]

    asyncio.run(go())


def test_under_the_public_name_a_user_has_one_model_and_each_arm_is_counted(told: Told) -> None:
    async def go() -> None:
        world = World(
            Fake("teacher"), Fake("student", "refund"), public_name="auto", arms={"student": 0.3, "teacher": 0.7}
        )
        assert "auto" in [m.id async for m in world.openai.models.list()]
        chosen = {f"user {i}": [(await world.chat(user=f"user {i}")).model for _ in range(3)] for i in range(60)}
        assert all(len(set(models)) == 1 for models in chosen.values())
        assert 8 <= sum(models[0] == "student" for models in chosen.values()) <= 28
        streamed = await world.streamed(user="user 1")
        assert {chunk.model for chunk in streamed} == set(chosen["user 1"])
        stats = (await world.http.get("routing")).json()["arms"]
        assert stats["student"]["answered"] + stats["teacher"]["answered"] == 181
        assert stats["student"]["share"] == 0.3
        assert stats["student"]["seconds_per_answer"] > 0
        assert ("raystill_arm_requests", {"model_name": "student", "outcome": "answered"}) in told

    asyncio.run(go())


def test_all_is_noted_before_a_stream_says_that_it_is_done(tmp_path: Path) -> None:
    async def go() -> None:
        world = World(Fake("student"), public_name="auto", arms={"student": 1.0}, capture=Capture(to=str(tmp_path)))
        body = module.ChatCompletionRequest(model="auto", messages=HELLO, stream=True)
        headers = [(b"x-raystill-consent", b"yes")]
        answer = await world.ingress.chat(body, module.Request({"type": "http", "headers": headers}))
        async for event in answer.body_iterator:
            if event == module.DONE:  # callers hang up here
                break
        assert world.ingress.arms["student"].outcomes == {"answered": 1}
        assert world.ingress.meters["student"].in_flight == 0
        world.ingress.__del__()

    asyncio.run(go())
    assert len(list(tmp_path.iterdir())) == 1


def test_an_arm_that_fails_is_counted_as_that_and_another_is_not_asked(told: Told) -> None:
    async def go() -> None:
        world = World(Fake("teacher"), Fake("student"), public_name="auto", arms={"student": 1.0})
        world.models["student"].error = RayActorError()
        with pytest.raises(openai.InternalServerError):
            await world.chat()
        world.models["student"].error = ErrorResponse(error=ErrorInfo(message="too long", type="BadRequest", code=400))
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError, match="too long"):
                await world.chat(stream=stream)
        assert not world.models["teacher"].asked
        assert (await world.http.get("routing")).json()["arms"]["student"]["failed"] == 3
        assert told == [("raystill_arm_requests", {"model_name": "student", "outcome": "failed"})] * 3

    asyncio.run(go())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("answer", "probability", "below", "by", "why"),
    [
        ("delivery", 0.9, 0.8, "student", "kept"),
        ("delivery", 0.7, 0.8, "teacher", "probability"),
        ("delivery", 0.1, None, "student", "kept"),
        ("I am not sure", 0.99, 0.8, "teacher", "check"),
        ("I am not sure", 0.99, None, "teacher", "check"),
    ],
)
def test_the_teacher_answers_where_the_students_answer_is_not_good_enough(
    stream: bool, answer: str, probability: float, below: float | None, by: str, why: str, told: Told
) -> None:
    async def go() -> None:
        world = World(Fake("teacher", "refund"), Fake("student", answer, probability), **judged(below))
        if stream:
            chunks = await world.streamed(stream_options={"include_usage": True})
            said, model, usage = text(chunks), chunks[0].model, chunks[-1].usage
            assert chunks[-2].choices[0].finish_reason == "stop"
            assert chunks[0].choices[0].logprobs is None
        else:
            whole = await world.chat()
            said, model, usage = whole.choices[0].message.content, whole.model, whole.usage
            assert whole.choices[0].logprobs is None
        assert (said, model) == (answer if by == "student" else "refund", by)
        assert usage.model_dump(include=set(USAGE)) == USAGE
        assert len(world.models["teacher"].asked) == (by == "teacher")
        found = (await world.http.get("routing")).json()["fallback"]
        assert (found["answers"], found[why], found["share"]) == (1, 1, float(by == "teacher"))
        assert ("raystill_fallback_answers", {"outcome": why}) in told
        if by == "teacher":
            assert found["saved"] < 0  # all were sent, and the student was asked too

    asyncio.run(go())


def test_logprobs_come_where_they_are_asked_for_and_completions_are_not_judged() -> None:
    async def go() -> None:
        world = World(Fake("teacher"), Fake("student"), **judged())
        assert (await world.chat(logprobs=True)).choices[0].logprobs.content[0].token == "delivery"
        assert (await world.streamed(logprobs=True))[0].choices[0].logprobs.content[0].token == "delivery"
        with pytest.raises(openai.BadRequestError, match="/v1/chat/completions"):
            await world.openai.completions.create(model="auto", prompt="where?")

    asyncio.run(go())


def test_each_model_is_asked_as_the_run_asked_it() -> None:
    views = {"student": (None, []), "teacher": ("You sort parcels.", [Turn(user="money back", assistant="refund")])}

    async def go() -> None:
        world = World(Fake("teacher", "refund"), Fake("student", "no idea"), **judged(views=views))
        await world.chat()
        assert world.models["student"].asked[0].messages == HELLO
        assert world.models["teacher"].asked[0].messages == [
            {"role": "system", "content": "You sort parcels."},
            {"role": "user", "content": "money back"},
            {"role": "assistant", "content": "refund"},
            *HELLO,
        ]

    asyncio.run(go())


def test_a_comparison_has_all_answers_with_tokens_cost_and_agreement() -> None:
    async def go() -> None:
        models = (Fake("teacher", "It is delivery."), Fake("student", "delivery"), Fake("baseline", "refund"))
        world = World(*models, compare=True, task=TASK, reads=True, prices=Prices(machine_hour=3600.0))
        asked = {"messages": HELLO, "temperature": 0, "max_tokens": 5}
        found = (await world.http.post("compare", json=asked)).json()
        by_model = {one["model"]: one for one in found["answers"]}
        assert list(by_model) == ["teacher", "student", "baseline"]
        assert by_model["student"]["text"] == "delivery"
        assert by_model["student"]["output_tokens"] == 2
        assert by_model["student"]["cost"] == pytest.approx(by_model["student"]["machine_s"])
        assert 0 < by_model["student"]["ttft_s"] <= by_model["student"]["elapsed_s"]
        assert {tuple(p["models"]): p["value"] for p in found["agreement"]} == {
            ("teacher", "student"): 1.0, ("teacher", "baseline"): 0.0, ("student", "baseline"): 0.0,
        }  # fmt: skip
        assert found["usage"] == {"prompt_tokens": 21, "completion_tokens": 6, "total_tokens": 27}
        assert world.models["student"].asked[0].max_tokens == 5
        two = (await world.http.post("compare", json={**asked, "models": ["student", "baseline"]})).json()
        assert [one["model"] for one in two["answers"]] == ["student", "baseline"]

    asyncio.run(go())


def test_a_comparison_says_what_it_cannot_do_and_a_model_that_fails_spoils_no_other() -> None:
    async def go() -> None:
        world = World(Fake("teacher", "the red kettle"), Fake("student", "a blue kettle"), compare=True)
        gone = await world.http.post("compare", json={"messages": HELLO, "models": ["nobody"]})
        assert gone.status_code == 404
        assert "nobody" in gone.json()["error"]["message"]
        assert (await world.http.post("compare", json={"messages": HELLO, "n": 2})).status_code == 400
        assert (await world.http.post("compare", json={"messages": []})).status_code == 200
        found = (await world.http.post("compare", json={"messages": HELLO})).json()
        assert (found["agreement_by"], found["agreement"][0]["value"]) == ("token_f1", 0.5)
        assert found["answers"][0]["cost"] is None
        world.models["student"].error = RayActorError()
        found = (await world.http.post("compare", json={"messages": HELLO})).json()
        assert found["answers"][0]["error"] is None
        assert "come again" in found["answers"][1]["error"]
        assert found["agreement"] == []

    asyncio.run(go())


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_is_kept_with_consent_alone_redacted_and_as_it_was_sent(tmp_path: Path, stream: bool) -> None:
    views = {"student": ("You sort parcels.", [])}

    async def go() -> None:
        config = Capture(to=str(tmp_path), redact=[r"parcel \d+"])
        world = World(Fake("teacher"), Fake("student", "refund to bob@x.org"), capture=config, views=views)
        said = [{"role": "user", "content": "I am ann@example.com, parcel 77?"}]
        asked = {"model": "student", "messages": said, "stream": stream}
        assert (await world.http.post("chat/completions", json=asked)).status_code == 200
        yes = {"X-Raystill-Consent": "yes"}
        answer = await world.http.post("chat/completions", json=asked, headers=yes)
        assert "bob@x.org" in answer.text  # what goes out is not redacted
        world.ingress.__del__()

    asyncio.run(go())
    (file,) = tmp_path.iterdir()
    (row,) = [json.loads(line) for line in file.read_text().splitlines()]
    assert row["messages"] == [{"role": "user", "content": "I am [EMAIL], [REDACTED]?"}]
    assert (row["answer"], row["model"]) == ("refund to [EMAIL]", "student")


def test_a_caller_who_leaves_is_neither_answered_nor_failed_and_leaves_nothing_running(
    told: Told, tmp_path: Path
) -> None:
    async def go() -> None:
        world = World(Fake("student"), public_name="auto", arms={"student": 1.0}, capture=Capture(to=str(tmp_path)))
        world.models["student"].gate = asyncio.Event()
        asked = asyncio.ensure_future(world.chat(extra_headers={"X-Raystill-Consent": "yes"}))
        while not world.models["student"].asked:
            await asyncio.sleep(0.01)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert world.ingress.meters["student"].in_flight == 0
        assert world.ingress.arms["student"].outcomes == {"left": 1}
        world.ingress.__del__()

    asyncio.run(go())
    assert told == [("raystill_arm_requests", {"model_name": "student", "outcome": "left"})]
    assert not list(tmp_path.iterdir())

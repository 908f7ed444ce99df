"""Engines that tell what they are running: one scripted by its questions, and vLLM's own."""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from ray.llm._internal.serve.core.configs.openai_api_models import ChatCompletionResponse, CompletionResponse
from ray.llm._internal.serve.core.engine.protocol import LLMEngine
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine

THREE_WORDS = {"pieces": 3, "piece_s": 0.0, "text": "a ", "dies_at": None}
Part = Callable[[str], dict[str, Any]]


def scripted(said: Any) -> dict[str, Any]:
    """How a question wants to be answered, if it says so."""
    return json.loads(said) if isinstance(said, str) and said.startswith('{"pieces"') else THREE_WORDS


def usage(asked: dict[str, Any]) -> dict[str, int]:
    """Seven tokens of a prompt, and one for each piece."""
    return {"prompt_tokens": 7, "completion_tokens": asked["pieces"], "total_tokens": 7 + asked["pieces"]}


class Scripted(LLMEngine):  # type: ignore[misc]
    """Answers each request as its last message says."""

    def __init__(self, llm_config: Any) -> None:
        self.model = llm_config.model_id
        self.running = 0

    async def start(self) -> None:
        """Nothing to load."""

    def routing_stats(self) -> dict[str, Any]:
        """How many requests run, where."""
        return {"running": self.running, "pid": os.getpid()}

    async def chat(self, request: Any, raw_request_info: Any = None) -> AsyncIterator[Any]:
        """The pieces that the script wants, each after its time."""
        said = request.messages[-1].get("content") if request.messages else None
        async for answer in self._answers(request, said, lambda text: {"delta": {"content": text}}):
            yield answer
        if not request.stream:
            yield self._whole(
                ChatCompletionResponse, said, lambda text: {"message": {"role": "assistant", "content": text}}
            )

    async def completions(self, request: Any, raw_request_info: Any = None) -> AsyncIterator[Any]:
        """The same as text alone."""
        async for answer in self._answers(request, request.prompt, lambda text: {"text": text}):
            yield answer
        if not request.stream:
            yield self._whole(CompletionResponse, request.prompt, lambda text: {"text": text})

    async def _answers(self, request: Any, said: Any, part: Part) -> AsyncIterator[str]:
        asked = scripted(said)
        self.running += 1
        try:
            for i in range(asked["pieces"]):
                await asyncio.sleep(asked["piece_s"])
                if i == asked["dies_at"]:
                    os._exit(1)
                if request.stream:
                    yield self._event([{"index": 0, "finish_reason": None, **part(asked["text"])}])
            if request.stream:
                yield self._event([{"index": 0, "finish_reason": "stop", **part("")}])
                if request.stream_options and request.stream_options.include_usage:
                    yield self._event([], usage=usage(asked))
                yield "data: [DONE]\n\n"
        finally:
            self.running -= 1

    def _whole(self, kind: Any, said: Any, part: Part) -> Any:
        asked = scripted(said)
        choice = {"index": 0, "finish_reason": "stop", **part(asked["text"] * asked["pieces"])}
        return kind(model=self.model, choices=[choice], usage=usage(asked))

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> str:
        about = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": int(time.time())}
        return f"data: {json.dumps({**about, 'model': self.model, 'choices': choices, **more})}\n\n"

    async def _no(self, *_: Any) -> None:
        raise NotImplementedError

    embeddings = transcriptions = resolve_lora = reset_prefix_cache = _no


class CountedVLLM(VLLMEngine):  # type: ignore[misc]
    """vLLM itself."""

    def routing_stats(self) -> dict[str, Any]:
        """How many requests it has not finished."""
        return {"running": self._engine_client.output_processor.get_num_unfinished_requests()}

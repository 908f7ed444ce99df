"""A vLLM engine as teacher: every row its own request, so continuous batching stays full.

Prompts are rendered by `chat`, the only place that applies a template, and given to the engine as token ids.
"""

import hashlib
import time
from typing import Any, ClassVar

from raystill import chat, engine, memory, recipe
from raystill.errors import ModelError
from raystill.records import Generation, Ids, Prompt
from raystill.teachers import EngineDied, RowError, generation
from raystill.teachers.parts import Parser


class Vllm:
    """One engine in this process. Raises ModelError when it cannot start with this model."""

    local: ClassVar[bool] = False

    def __init__(self, teacher: recipe.Teacher, model: str | None) -> None:
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        assert model is not None
        self.teacher = teacher
        self.tokenizer = chat.load_tokenizer(model)
        memory.refuse(model, teacher.engine, memory.gpu_bytes())
        try:
            args = AsyncEngineArgs(**engine.arguments(model, teacher.engine), disable_log_stats=True)
            self.llm = AsyncLLM.from_engine_args(args)
        except (ValueError, TypeError, OSError, RuntimeError) as e:
            said = " ".join(line.strip() for line in str(e).splitlines() if "errors.pydantic.dev" not in line)
            raise ModelError(f"vLLM cannot start with {model}: {said}; check teacher.model and teacher.engine") from e
        self.parser = Parser(self.tokenizer, teacher.reasoning_parser, teacher.tool_parser)
        self.context_tokens: int = self.llm.vllm_config.model_config.max_model_len

    async def answer(self, prompt: Prompt) -> list[Generation]:
        """n answers of the teacher's view of the prompt."""
        from vllm.v1.engine.exceptions import EngineDeadError

        ids = chat.prompt_ids(
            self.tokenizer,
            chat.view(prompt.messages, self.teacher.system, self.teacher.examples),
            prompt.tools,
            self.teacher.chat_template_kwargs,
        )
        if len(ids) >= self.context_tokens:
            raise RowError("prompt longer than the teacher's context")
        started = time.perf_counter()
        try:
            output = await self._complete(ids, f"{prompt.id}-{started}", self._sampling(prompt, len(ids)))
        except EngineDeadError as e:
            raise EngineDied(str(e).splitlines()[0]) from e
        except ValueError as e:
            raise RowError(type(e).__name__) from e
        elapsed_s = time.perf_counter() - started
        return [
            generation(
                prompt,
                sample_index=c.index,
                **vars(self.parser.split(c.text, prompt.tools)),
                finish_reason=c.finish_reason or "stop",
                prompt_tokens=len(ids),
                output_tokens=len(c.token_ids),
                completion_ids=Ids(list(c.token_ids)),
                elapsed_s=elapsed_s,
            )
            for c in output.outputs
        ]

    def close(self) -> None:
        """Stop the engine."""
        self.llm.shutdown()

    async def _complete(self, ids: list[int], request_id: str, sampling: Any) -> Any:
        final = None
        async for output in self.llm.generate({"prompt_token_ids": ids}, sampling, request_id):
            final = output
        return final

    def _sampling(self, prompt: Prompt, prompt_tokens: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        s = self.teacher.sampling
        form = s.structured
        row_seed = int.from_bytes(hashlib.sha256(f"{s.seed}/{prompt.id}".encode()).digest()[:4])
        return SamplingParams(
            n=s.n,
            temperature=s.temperature,
            top_p=s.top_p,
            max_tokens=min(s.max_tokens, self.context_tokens - prompt_tokens),
            stop=s.stop,
            structured_outputs=form
            and StructuredOutputsParams(json=form.json_schema, regex=form.regex, choice=form.choice),
            seed=row_seed,
            skip_special_tokens=not self.parser.needs_marks,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

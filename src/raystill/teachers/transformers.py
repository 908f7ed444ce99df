"""A model in plain transformers as teacher: slower than an engine, and runs wherever PyTorch does, also on a Mac.

Rows that wait together are answered together: sorted by length, so that little is padding, in batches of BATCH_TOKENS.
"""

import asyncio
import hashlib
import time
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from raystill import chat, recipe
from raystill.engine import context_length
from raystill.errors import RecipeError
from raystill.records import Generation, Ids, Prompt
from raystill.teachers import RowError, frozen, generation

BATCH_TOKENS = 8192
"""Prompt and answer tokens of a batch at most, padding counted."""


@dataclass
class Waiting:
    """A prompt whose answer is awaited."""

    prompt: Prompt
    ids: list[int]
    answer: "asyncio.Future[list[Generation]]"


class Transformers:
    """One model in this process. Raises ModelError when it cannot be loaded, RecipeError for what it cannot do."""

    local: ClassVar[bool] = False

    def __init__(self, teacher: recipe.Teacher, model: str | None) -> None:
        assert model is not None
        for name, asked in {
            "sampling.structured": teacher.sampling.structured,
            "reasoning_parser": teacher.reasoning_parser,
            "tool_parser": teacher.tool_parser,
            "engine": teacher.engine,
        }.items():
            if asked:
                raise RecipeError(f"teacher.{name} needs vLLM; remove it, or take kind: vllm")
        self.teacher, self.tokenizer = teacher, chat.load_tokenizer(model)
        self.context_tokens = context_length(model)
        self.device = torch.device(
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
        self.model = frozen.load(model, self.device)
        self.stops = {chat.stop_id(self.tokenizer), self.tokenizer.eos_token_id}
        self.waiting: list[Waiting] = []
        self.worker: asyncio.Task[None] | None = None

    async def answer(self, prompt: Prompt) -> list[Generation]:
        """n answers of the teacher's view of the prompt."""
        view = chat.view(prompt.messages, self.teacher.system, self.teacher.examples)
        ids = chat.prompt_ids(self.tokenizer, view, prompt.tools, self.teacher.chat_template_kwargs)
        if len(ids) >= self.context_tokens:
            raise RowError("prompt longer than the teacher's context")
        mine = Waiting(prompt, ids, asyncio.get_running_loop().create_future())
        self.waiting.append(mine)
        if self.worker is None or self.worker.done():
            self.worker = asyncio.create_task(self._work())
        return await mine.answer

    def close(self) -> None:
        """Let the model go."""
        del self.model

    async def _work(self) -> None:
        while self.waiting:
            await asyncio.sleep(0)  # rows of the same unit come one after another: let all of them in
            self.waiting.sort(key=lambda w: len(w.ids))
            room = len(self.waiting[-1].ids) + self.teacher.sampling.max_tokens
            size = max(1, BATCH_TOKENS // (room * self.teacher.sampling.n))
            batch, self.waiting = self.waiting[-size:], self.waiting[:-size]
            (made,) = await asyncio.gather(asyncio.to_thread(self._generate, batch), return_exceptions=True)
            for i, w in enumerate(batch):
                if w.answer.done():
                    continue
                if isinstance(made, BaseException):  # every row of the batch is told, and the run ends with it
                    w.answer.set_exception(made)
                else:
                    w.answer.set_result(made[i])

    @torch.inference_mode()
    def _generate(self, batch: list[Waiting]) -> list[list[Generation]]:
        s = self.teacher.sampling
        longest = max(len(w.ids) for w in batch)
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id
        ids_BL = torch.tensor([[pad] * (longest - len(w.ids)) + w.ids for w in batch], device=self.device)
        mask_BL = torch.tensor([[0] * (longest - len(w.ids)) + [1] * len(w.ids) for w in batch], device=self.device)
        named = f"{s.seed}/{'/'.join(w.prompt.id for w in batch)}"
        torch.manual_seed(int.from_bytes(hashlib.sha256(named.encode()).digest()[:7]))
        draw: dict[str, Any] = {"do_sample": s.temperature > 0}
        if s.temperature > 0:
            draw |= {"temperature": s.temperature, "top_p": s.top_p, "top_k": 0}
        started = time.perf_counter()
        out_BT = self.model.generate(
            ids_BL,
            attention_mask=mask_BL,
            max_new_tokens=min(s.max_tokens, self.context_tokens - longest),
            num_return_sequences=s.n,
            eos_token_id=sorted(self.stops),
            pad_token_id=pad,
            stop_strings=s.stop or None,
            tokenizer=self.tokenizer if s.stop else None,
            **draw,
        )[:, longest:].tolist()
        elapsed_s = time.perf_counter() - started
        return [[self._row(w, i, out_BT[b * s.n + i], elapsed_s) for i in range(s.n)] for b, w in enumerate(batch)]

    def _row(self, asked: Waiting, index: int, ids: list[int], elapsed_s: float) -> Generation:
        end = next((i for i, token in enumerate(ids) if token in self.stops), None)
        written = ids if end is None else ids[: end + 1]
        text = self.tokenizer.decode(written, skip_special_tokens=True)
        stopped = [at for stop in self.teacher.sampling.stop if (at := text.find(stop)) >= 0]
        return generation(
            asked.prompt,
            sample_index=index,
            text=text[: min(stopped, default=len(text))].strip(),
            finish_reason="stop" if end is not None or stopped else "length",
            prompt_tokens=len(asked.ids),
            output_tokens=len(written),
            completion_ids=Ids(written if not stopped else []),
            elapsed_s=elapsed_s,
        )

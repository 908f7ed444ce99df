"""Scores by vLLM's prompt_logprobs: top-k with its tail at temperature 1.

vLLM computes them for a whole scheduler step at once, outside its memory profile: a step of S tokens takes about
3 x 4 x S x V bytes. So steps are kept small enough, rather than found out by running out of memory.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np

from raystill import engine, memory, models, recipe, targets
from raystill.errors import ModelError, StageError
from raystill.teachers.scorer import Asked

STEP_BYTES = 2 << 30
"""Most that one step's log-probabilities take."""


class PromptLogprobs:
    """One engine in this process. Raises ModelError when it cannot start with this model."""

    def __init__(self, score: recipe.Score, teacher: recipe.Teacher, model: str) -> None:
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        memory.refuse(model, teacher.engine, memory.gpu_bytes())
        self.k = score.k
        self.vocabulary = int((models.config(model) or {}).get("vocab_size", 0))
        asked = engine.arguments(model, teacher.engine) | {
            "max_logprobs": score.k,
            "enable_prefix_caching": False,  # a prefix taken from the cache has no logits
            "enable_chunked_prefill": True,
            "max_num_batched_tokens": step_tokens(self.vocabulary),
        }
        try:
            self.llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**asked, disable_log_stats=True))
        except (ValueError, TypeError, OSError, RuntimeError) as e:
            said = " ".join(line.strip() for line in str(e).splitlines() if "errors.pydantic.dev" not in line)
            raise ModelError(f"vLLM cannot start with {model}: {said}; check teacher.model and teacher.engine") from e

    async def distributions(self, rows: Sequence[Asked]) -> list[targets.TopK | targets.Sampled]:
        """For each row its K likeliest ids and their tail."""
        return list(await asyncio.gather(*(self._row(row, i) for i, row in enumerate(rows))))

    async def _row(self, row: Asked, number: int) -> targets.TopK:
        from vllm import SamplingParams

        ask = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=self.k, detokenize=False, flat_logprobs=True)
        ids: Any = {"prompt_token_ids": row.prompt_ids + row.completion_ids}
        final: Any = None
        async for output in self.llm.generate(ids, ask, f"{id(row)}-{number}"):
            final = output
        if final is None or final.prompt_logprobs is None:
            raise StageError("vLLM gave no prompt_logprobs; take score.kind: transformers")
        return kept(final.prompt_logprobs, len(row.prompt_ids), self.k)


def step_tokens(vocabulary: int) -> int:
    """Tokens of one scheduler step whose log-probabilities fit STEP_BYTES."""
    return max(128, STEP_BYTES // (3 * 4 * max(1, vocabulary)))


def kept(flat: Any, prompt_tokens: int, k: int) -> targets.TopK:
    """The K likeliest of each answer position, from vLLM's flat log-probabilities.

    Entry i speaks about token i. Each position holds the actual token first and then the K likeliest in order: the first
    is dropped, since it stands among the others or belongs to the tail.
    """
    start = flat.start_indices[prompt_tokens]
    ids_TK = np.array(flat.token_ids[start:], np.int32).reshape(-1, k + 1)[:, 1:]
    logprobs_TK = np.array(flat.logprobs[start:], np.float32).reshape(-1, k + 1)[:, 1:]
    tail_T = np.clip(1 - np.exp(logprobs_TK.astype(np.float64)).sum(-1), 0, 1)
    return targets.TopK(ids_TK, logprobs_TK, tail_T.astype(np.float32))

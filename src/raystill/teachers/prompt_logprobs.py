"""Scores by vLLM's prompt_logprobs: top-k with its tail at temperature 1.

vLLM computes them for all of a scheduler step's tokens of a row at once, outside its memory profile: a step of S tokens
takes LOGIT_BYTES x S x V. So long rows go through in steps (chunked prefill) whose size is computed from what vLLM leaves.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import psutil

from raystill import engine, memory, models, recipe, targets
from raystill.errors import ModelError, ResourceError, StageError
from raystill.teachers.scorer import Asked

LOGIT_BYTES = 10
"""Peak bytes per token and id, measured on vLLM's sampler with torch's profiler: 8 in float32, 10 in bfloat16."""
STEP_BYTES = 2 << 30
"""Most that one step's log-probabilities take; larger steps are no faster."""
STEP_TOKENS = 128
"""Fewer a step would starve the engine."""


class PromptLogprobs:
    """One engine in this process. Raises ModelError when it cannot start with this model, ResourceError when memory lacks."""

    def __init__(self, score: recipe.Score, teacher: recipe.Teacher, model: str) -> None:
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        memory.refuse(model, teacher.engine, memory.gpu_bytes())
        self.k = score.k
        self.vocabulary = int((models.config(model) or {}).get("vocab_size", 0))
        tokens = step_tokens(self.vocabulary, spare_bytes(teacher.engine))
        tokens = min(tokens, teacher.engine.get("max_num_batched_tokens", tokens))
        asked = engine.arguments(model, teacher.engine) | {
            "max_logprobs": score.k,
            "enable_prefix_caching": False,  # a prefix taken from the cache has no logits
            "enable_chunked_prefill": True,
            "max_num_batched_tokens": tokens,
            # vLLM wants no more than tokens
            "max_num_seqs": min(tokens, teacher.engine.get("max_num_seqs", STEP_TOKENS)),
        }
        try:
            self.llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**asked, disable_log_stats=True))
        except (ValueError, TypeError, OSError, RuntimeError) as e:
            said = " ".join(line.strip() for line in str(e).splitlines() if "errors.pydantic.dev" not in line)
            raise ModelError(f"vLLM cannot start with {model}: {said}; check teacher.model and teacher.engine") from e
        # vLLM has made sure that its cache holds a row of this length, and steps bound the rest.
        self.context = self.llm.model_config.max_model_len

    def dense(self, row: Asked) -> None:
        """vLLM gives the K likeliest alone."""

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


def spare_bytes(arguments: Mapping[str, Any]) -> int:
    """Memory that one step's log-probabilities may take: half of what vLLM leaves of a GPU, an eighth of free memory else.

    The other half is for CUDA itself and fragments; on CPU weights and cache are still to come.
    """
    gpu = memory.gpu_bytes()
    if gpu is None:
        return int(psutil.virtual_memory().available // 8)
    return int(gpu * (1 - arguments.get("gpu_memory_utilization", memory.UTILIZATION)) / 2)


def step_tokens(vocabulary: int, spare: int) -> int:
    """Tokens of one scheduler step whose log-probabilities fit. Raises ResourceError when they would be too few."""
    token_bytes = LOGIT_BYTES * max(1, vocabulary)
    tokens = min(STEP_BYTES, spare) // token_bytes
    if tokens < STEP_TOKENS:
        raise ResourceError(
            f"{STEP_TOKENS} tokens of a vocabulary of {vocabulary} take {STEP_TOKENS * token_bytes / 2**30:.1f} GiB of "
            f"log-probabilities, which vLLM's own share of memory does not count, and {spare / 2**30:.1f} GiB are spare; "
            "lower teacher.engine.gpu_memory_utilization, or take score.kind: transformers"
        )
    return tokens


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

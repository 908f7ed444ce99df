"""What a student is asked at validations when it is judged by its own answers: greedy ones, written in the train workers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from raystill import chat
from raystill.records import Prompt
from raystill.tasks import Task

BATCH = 16
"""Prompts answered at once by a worker."""


@dataclass(frozen=True)
class Exam:
    """Prompts, and how the answers are judged; picklable."""

    task: Task
    metric: str
    prompts: list[Prompt]
    system: str | None
    """The student's own."""
    max_tokens: int


def mark(exam: Exam, student: Any, folder: str, sharded: bool) -> float:
    """The metric over the student's answers. Every worker calls it, answers its share and learns the result.

    `folder` holds the tokenizer. Workers whose parameters are `sharded` write their tokens in step.
    """
    tokenizer = chat.load_tokenizer(folder)
    rank, workers = dist.get_rank(), dist.get_world_size()
    most = -(-len(exam.prompts) // workers)
    # All workers take the same passes: a short share asks a prompt once more.
    share = (exam.prompts[rank::workers] + exam.prompts[:1])[:most]
    before = student.config._attn_implementation
    student.set_attn_implementation("sdpa")
    said = [t for i in range(0, most, BATCH) for t in _answers(exam, student, tokenizer, share[i : i + BATCH], sharded)]
    student.set_attn_implementation(before)
    shares: list[Any] = [None] * workers
    dist.all_gather_object(shares, said)
    return judge(exam, [shares[i % workers][i // workers] for i in range(len(exam.prompts))])


def judge(exam: Exam, answers: Sequence[str]) -> float:
    """The metric: the mean of the task's own values, or one against references."""
    values = [exam.task.score(prompt, text) for prompt, text in zip(exam.prompts, answers, strict=True)]
    if all(exam.metric in value for value in values):
        return float(np.mean([value[exam.metric] for value in values]))
    return exam.task.measure(answers, [prompt.reference or "" for prompt in exam.prompts])[exam.metric].point()


def _answers(exam: Exam, student: Any, tokenizer: Any, prompts: Sequence[Prompt], sharded: bool) -> list[str]:
    asked = [chat.prompt_ids(tokenizer, chat.view(p.messages, exam.system, []), p.tools) for p in prompts]
    longest, end = max(map(len, asked)), int(tokenizer.eos_token_id)
    ids_DL = torch.tensor([[end] * (longest - len(ids)) + ids for ids in asked], device=student.device)
    mask_DL = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in asked], device=student.device)
    # As arguments: where a config equals transformers' defaults, the model's own sampling would take their place.
    written = student.generate(
        input_ids=ids_DL,
        attention_mask=mask_DL,
        max_new_tokens=exam.max_tokens,
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        use_cache=True,
        eos_token_id=sorted({end, chat.stop_id(tokenizer)}),
        pad_token_id=end,
        synced_gpus=sharded,
    )
    return list(tokenizer.batch_decode(written[:, longest:], skip_special_tokens=True))

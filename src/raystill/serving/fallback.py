"""The student's answer, or the teacher's where that is not good enough.

The student answers whole before anything goes out, streams too: what is judged cannot be taken back. Its first token then
comes as late as its last. An answer of several choices is good when all are.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from raystill import client, tasks
from raystill.recipe import Fallback
from raystill.records import Message, Prompt

KEPT, CHECK, PROBABILITY = "kept", "check", "probability"
Answer = Mapping[str, Any]
"""OpenAI's chat.completion."""


@dataclass
class Judge:
    """When the teacher is asked, and what came of it so far, machine time in seconds."""

    config: Fallback
    task: tasks.Task
    outcomes: Counter[str] = field(default_factory=Counter)
    student_s: float = 0.0
    teacher_s: float = 0.0

    def outcome(self, messages: list[Message], answer: Answer) -> str:
        """What becomes of this answer of the student: kept, or why the teacher is asked: check or probability.

        A tool call is judged by its probability alone. An answer whose probability is not told is below any.
        """
        prompt = Prompt("", None, messages, None, "", "", "test", None, "{}")
        for choice in answer["choices"]:
            said = choice["message"]
            if self.config.check and not said.get("tool_calls") and self.task.check(prompt, said.get("content") or ""):
                return CHECK
            sure = client.probability((choice.get("logprobs") or {}).get("content") or [])
            if self.config.below is not None and (sure or 0.0) < self.config.below:
                return PROBABILITY
        return KEPT

    def note(self, outcome: str, student_s: float, teacher_s: float) -> None:
        """One more answer, and the machine time that it took."""
        self.outcomes[outcome] += 1
        self.student_s += student_s
        self.teacher_s += teacher_s

    def stats(self) -> dict[str, Any]:
        """How many answers were kept and why others were not, the share that the teacher was asked, and what that saves:
        the machine time of all these answers against the teacher's mean for each; None before it was asked."""
        total = self.outcomes.total()
        sent = total - self.outcomes[KEPT]
        by_teacher_s = total * self.teacher_s / sent if sent else None
        return {
            "answers": total,
            **self.outcomes,
            "share": sent / total if total else None,
            "saved": 1 - (self.student_s + self.teacher_s) / by_teacher_s if by_teacher_s else None,
        }


def as_events(answer: Answer, usage: bool) -> Iterator[str]:
    """A whole answer as a stream's events, a chunk for each choice, and one with its usage where that was asked for."""
    head = {key: answer[key] for key in ("id", "created", "model")} | {"object": "chat.completion.chunk"}
    for choice in answer["choices"]:
        said = choice["message"]
        calls = [{"index": i, **call} for i, call in enumerate(said.get("tool_calls") or [])]
        delta = {**said, "tool_calls": calls} if calls else said
        rest = {key: choice.get(key) for key in ("index", "logprobs", "finish_reason")}
        yield _event({**head, "choices": [{**rest, "delta": delta}]})
    if usage:
        yield _event({**head, "choices": [], "usage": answer["usage"]})


def _event(chunk: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"

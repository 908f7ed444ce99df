"""Where completions come from. A kind is a class of one file here, or the user's own as `module:attr`.

It is made once per replica with the recipe's teacher block and the model's folder, and answers one prompt at a time;
a replica keeps many answers in flight. `local = True` says that it needs no engine and answers in the driver.
"""

import dataclasses
from typing import Any, ClassVar, Protocol

from raystill import recipe
from raystill.errors import RaystillError
from raystill.records import Generation, Prompt

KINDS = {
    "vllm": "raystill.teachers.vllm:Vllm",
    "endpoint": "raystill.teachers.endpoint:Endpoint",
    "transformers": "raystill.teachers.transformers:Transformers",
    "reference": "raystill.teachers.reference:Reference",
    "scripted": "raystill.teachers.scripted:Scripted",
}


class Teacher(Protocol):
    """What generate asks of a teacher."""

    local: ClassVar[bool]

    def __init__(self, teacher: recipe.Teacher, model: str | None) -> None: ...

    async def answer(self, prompt: Prompt) -> list[Generation]:
        """`sampling.n` answers. Raises RowError for a prompt that cannot be answered, EngineDied when nothing can."""

    def close(self) -> None:
        """Let the engine go."""


class Dear(Teacher, Protocol):
    """A local teacher that is paid by the answer: each is kept as soon as it is there."""

    dear: ClassVar[bool]
    budget: float | None
    """Most that all may cost, in US dollars."""
    spent: float
    """What they have cost, earlier runs included."""
    stopped: RaystillError | None
    """Once set, nothing more is sent; what is on its way is waited for."""

    async def aclose(self) -> None:
        """End the connections, in the loop they belong to."""


class RowError(Exception):
    """This prompt cannot be answered; its text is the reason, without the prompt. The others go on.

    transient says that it may be answered another time, cost what was paid in vain.
    """

    def __init__(self, reason: str, *, transient: bool = False, cost: float = 0.0) -> None:
        super().__init__(reason)
        self.transient = transient
        self.cost = cost


class EngineDied(Exception):
    """The engine is gone: the replica must be replaced, and the row is not to blame yet."""


def generation(prompt: Prompt, **answer: Any) -> Generation:
    """A Generation that carries its prompt's fields."""
    asked = {f.name: getattr(prompt, f.name) for f in dataclasses.fields(Prompt)}
    return Generation(**asked, teacher="teacher", **answer)


def failure(prompt: Prompt, reason: str, **more: Any) -> Generation:
    """The row that stands for an answer which could not be had."""
    return generation(prompt, finish_reason="error", error=reason, **more)

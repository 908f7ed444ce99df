"""A plug-in teacher that leaves a line for every call, in a file that outlives its process."""

import os
from collections import Counter
from pathlib import Path
from typing import ClassVar

from raystill import recipe
from raystill.records import Generation, Prompt
from raystill.teachers import generation

KIND = f"{__name__}:Counting"


class Counting:
    """Answers in the driver, without an engine."""

    local: ClassVar[bool] = True

    def __init__(self, teacher: recipe.Teacher, model: str | None) -> None:
        self.calls = os.open(os.environ["CALLS"], os.O_APPEND | os.O_CREAT | os.O_WRONLY)

    async def answer(self, prompt: Prompt) -> list[Generation]:
        """The reference."""
        os.write(self.calls, f"{prompt.id}\n".encode())
        return [generation(prompt, text=prompt.reference or "")]

    def close(self) -> None:
        """Nothing to let go."""


def calls(path: Path) -> Counter[str]:
    """Calls so far, by id."""
    return Counter(path.read_text().split() if path.exists() else [])

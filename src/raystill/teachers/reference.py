"""The data's own answers as teacher: a first fine-tune, or the control of an experiment."""

from typing import ClassVar

from raystill import recipe
from raystill.records import Generation, Prompt
from raystill.teachers import RowError, generation


class Reference:
    """Answers with the row's reference."""

    local: ClassVar[bool] = True

    def __init__(self, teacher: recipe.Teacher, model: str | None) -> None:
        pass

    async def answer(self, prompt: Prompt) -> list[Generation]:
        """The reference, once. Raises RowError when the row has none."""
        if prompt.reference is None:
            raise RowError("no reference")
        return [generation(prompt, text=prompt.reference)]

    def close(self) -> None:
        """Nothing to let go."""

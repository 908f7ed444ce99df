"""A deterministic fake teacher with faults on cue: for fault and scale tests, never for claims.

It answers with the reference, or with a text made from the row's id. A prompt that contains `<<error>>` fails as a row,
one with `<<kill>>` ends the process each time, one with `<<kill-once:PATH>>` ends it once, leaving a file at PATH, and
one with `<<hang-once:PATH>>` is never answered the first time.
"""

import asyncio
import hashlib
import os
import re
from pathlib import Path
from typing import ClassVar

from raystill import recipe
from raystill.records import Generation, Prompt
from raystill.teachers import RowError, generation

ONCE = re.compile(r"<<(kill|hang)-once:([^>]+)>>")


class Scripted:
    """Answers after `scripted.delay_s` seconds."""

    local: ClassVar[bool] = False

    def __init__(self, teacher: recipe.Teacher, model: str | None) -> None:
        self.script = teacher.scripted
        self.n = teacher.sampling.n
        self.asked = 0

    async def answer(self, prompt: Prompt) -> list[Generation]:
        """n answers that depend on the row alone."""
        asked = prompt.messages[-1].content
        self.asked += 1
        if self.asked == self.script.die_after:
            os._exit(1)
        if "<<kill>>" in asked:
            os._exit(1)
        if (once := ONCE.search(asked)) and not Path(once[2]).exists():
            Path(once[2]).touch()
            if once[1] == "kill":
                os._exit(1)
            await asyncio.Event().wait()
        if "<<error>>" in asked:
            raise RowError("scripted error")
        await asyncio.sleep(self.script.delay_s)
        text = prompt.reference or f"answer {hashlib.sha256(prompt.id.encode()).hexdigest()[:8]}"
        tokens = len(text.split())
        return [generation(prompt, sample_index=i, text=text, output_tokens=tokens) for i in range(self.n)]

    def close(self) -> None:
        """Nothing to let go."""

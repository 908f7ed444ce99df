"""The scripted teacher as a plug-in whose `<<kill>>` takes memory until Ray's memory monitor ends the process."""

import asyncio
import os

from raystill.records import Generation, Prompt
from raystill.teachers.scripted import Scripted

PIECE = 64 << 20


class Growing(Scripted):
    """Grows by GROW_BYTES at most."""

    async def answer(self, prompt: Prompt) -> list[Generation]:
        """As Scripted."""
        if "<<kill>>" in prompt.messages[-1].content:
            held = []
            while len(held) * PIECE < int(os.environ["GROW_BYTES"]):
                held.append(b"x" * PIECE)
                await asyncio.sleep(0.02)
            await asyncio.Event().wait()
        return await super().answer(prompt)

"""What an answer used, from its own usage numbers, also where a stream's caller has not asked for them. No Ray."""

import json
from typing import Any

BYTES_PER_TOKEN = 4
"""Of a prompt whose answer was cut before it told its usage; English text has about so many."""


def counted(body: bytes, request: dict[str, Any]) -> tuple[bytes, bool]:
    """A request whose stream will tell its usage, and whether that is hidden from the caller, who has not asked for it."""
    options = request.get("stream_options")
    if not request.get("stream") or not isinstance(options, dict | None) or (options or {}).get("include_usage"):
        return body, False
    return json.dumps({**request, "stream_options": {**(options or {}), "include_usage": True}}).encode(), True


class Tally:
    """Counts one answer's tokens as its pieces pass."""

    def __init__(self, prompt: bytes, hidden: bool) -> None:
        self.hidden = hidden
        self.cut = len(prompt) / BYTES_PER_TOKEN
        self.said: float | None = None

    def seen(self, piece: bytes) -> bytes:
        """What of a piece (one JSON answer, or whole events) the caller gets."""
        self.cut += piece.count(b"data: ")
        if b'"usage":' not in piece:
            return piece
        events = piece.split(b"\n\n")
        return b"\n\n".join(event for event in events if not (self._is_usage(event) and self.hidden))

    def _is_usage(self, event: bytes) -> bool:
        """Note what an event says of usage; whether it says nothing else."""
        try:
            said = json.loads(event.removeprefix(b"data: "))
        except ValueError:
            return False
        used = said.get("usage") if isinstance(said, dict) else None
        if isinstance(used, dict):
            self.said = float(used.get("prompt_tokens") or 0) + float(used.get("completion_tokens") or 0)
            return not said.get("choices")
        return False

    def tokens(self) -> float:
        """Prompt and answer; of an answer that was cut about the prompt, and one for each event."""
        return self.cut if self.said is None else self.said

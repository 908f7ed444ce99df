"""Requests kept to learn from: with their sender's consent, redacted, as JSON Lines that `prepare` reads as data.train.

Who asks consents by a header, for this one request: an application's key cannot say it for its users. What a model answered
is a column beside the messages, not the last of them: as the assistant's turn it would count as the right answer.
"""

import asyncio
import datetime
import json
import logging
import uuid
from collections.abc import Mapping
from typing import Any

from raystill import storage
from raystill.errors import StorageError
from raystill.recipe import Capture
from raystill.serving.redaction import Redactor

CONSENT = "x-raystill-consent"
SHARD_ROWS = 256
SHARD_S = 10.0
"""Rows wait so long for others at most; a crash loses them."""
log = logging.getLogger(__name__)


def consents(headers: Mapping[str, str]) -> bool:
    """Whether who asks lets this request be kept."""
    return headers.get(CONSENT, "").strip().lower() == "yes"


class Shelf:
    """Where kept rows go: a folder or an s3:// prefix, a new file every SHARD_ROWS rows or SHARD_S seconds."""

    def __init__(self, config: Capture) -> None:
        self.url = config.to
        self.redactor = Redactor(config.redact)
        self.kept = self.lost = 0
        self._rows: list[dict[str, Any]] = []

    def add(self, request: Mapping[str, Any], answer: str, model: str) -> None:
        """Keep one answered request, as the sender wrote it. Called on a running loop."""
        tools = {"tools": request["tools"]} if request.get("tools") else {}
        at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._rows.append({"messages": request["messages"], **tools, "answer": answer, "model": model, "at": at})
        if len(self._rows) == 1:
            asyncio.get_running_loop().call_later(SHARD_S, self._aside)
        if len(self._rows) == SHARD_ROWS:
            self._aside()

    def close(self) -> None:
        """Write what still waits."""
        rows, self._rows = self._rows, []
        self._write(rows)

    def _aside(self) -> None:
        rows, self._rows = self._rows, []
        asyncio.get_running_loop().run_in_executor(None, self._write, rows)

    def _write(self, rows: list[dict[str, Any]]) -> None:
        """Redact and store. A store that refuses loses the rows: the endpoint answers on."""
        if not rows:
            return
        lines = [json.dumps(self.redactor.clean(row), ensure_ascii=False) + "\n" for row in rows]
        name = f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:12]}.jsonl"
        try:
            storage.put_if_absent(storage.join(self.url, name), "".join(lines).encode(errors="replace"))
            self.kept += len(rows)
        except StorageError as e:
            self.lost += len(rows)
            log.warning("%d captured requests are lost: %s", len(rows), e)

"""Scalars as one JSON object a line: `<folder>/<run>.jsonl`."""

import json
import time
from pathlib import Path


class Jsonl:
    """Appends; a resumed run goes on in the same file."""

    def __init__(self, folder: str, run: str) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._file = Path(folder, f"{run}.jsonl").open("a", encoding="utf-8")  # noqa: SIM115  closed by close()

    def log(self, step: int, scalars: dict[str, float]) -> None:
        """One line."""
        self._file.write(json.dumps({"step": step, "time": round(time.time(), 3), **scalars}) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

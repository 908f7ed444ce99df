"""Callers of an endpoint that never pause: what they heard, and what failed."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psutil


def until(true: Callable[[], bool], timeout_s: float) -> None:
    """Wait for something. Fails when it does not come true in time."""
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.1)


def servers(model: str) -> set[int]:
    """Processes that host a model."""
    named = f"MeasuredServer:{model}"
    return {p.pid for p in psutil.process_iter(["cmdline"]) if named in " ".join(p.info["cmdline"] or [])}


class Callers:
    """Several at once, each asking the same, whole and streamed in turn."""

    def __init__(self, base_url: str, body: dict[str, Any]) -> None:
        self.url, self.body = f"{base_url}/v1/chat/completions", body
        self.failed: list[str] = []
        self.texts: list[str] = []
        self.ending = threading.Event()

    def run(self) -> None:
        """Ask until told to end."""
        with httpx.Client(timeout=120) as client:
            while not self.ending.is_set():
                try:
                    whole = client.post(self.url, json=self.body)
                    streamed = client.post(self.url, json=self.body | {"stream": True})
                except httpx.HTTPError as e:
                    self.failed.append(type(e).__name__)
                    continue
                if whole.status_code != 200 or streamed.status_code != 200 or "[DONE]" not in streamed.text:
                    self.failed.append(f"{whole.status_code}, {streamed.status_code}: {whole.text} {streamed.text}")
                    continue
                self.texts.append(whole.json()["choices"][0]["message"]["content"])

    def heard_more(self, answers: int = 8, timeout_s: float = 60) -> None:
        """Wait until so many more answers have come."""
        seen = len(self.texts)
        until(lambda: len(self.texts) > seen + answers or bool(self.failed), timeout_s)


@contextlib.contextmanager
def calling(base_url: str, body: dict[str, Any], at_once: int = 4) -> Iterator[Callers]:
    """Callers that ask while the block runs; the first have been answered when it begins, all when it has ended."""
    callers = Callers(base_url, body)
    threads = [threading.Thread(target=callers.run) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    try:
        callers.heard_more()
        yield callers
        callers.heard_more()
    finally:
        callers.ending.set()
        for thread in threads:
            thread.join()

"""An endpoint teacher with thousands of requests in flight, beside a lean server in a process of its own.

The server holds a request about LATENCY_S, half of it before the first token, as a vendor's would, and counts what is in
flight: what the client says of itself is not asked. `python bench/scale_api.py` is that server.
"""

import asyncio
import contextlib
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psutil

LATENCY_S = 8.0
"""Mean seconds per answer: some hundred tokens at a vendor's speed. Each has from half to one and a half times as many."""
PIECES = 8
"""Writes of one answer after its first token, each of CHUNKS tokens."""
CHUNKS = 4
FULL = 0.95
"""The steady window is where at least this share of the most requests is in flight."""


def _event(**chunk: Any) -> bytes:
    return f"data: {json.dumps(chunk)}\n\n".encode()


TOKENS = CHUNKS * PIECES
PIECE = CHUNKS * _event(choices=[{"index": 0, "delta": {"content": "word "}, "finish_reason": None}])
END = (
    _event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
    + _event(choices=[], usage={"prompt_tokens": 30, "completion_tokens": TOKENS})
    + b"data: [DONE]\n\n"
)
HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    + f"Content-Length: {PIECES * len(PIECE) + len(END)}\r\n\r\n".encode()
)


class Answering(asyncio.Protocol):
    """One connection, one request at a time."""

    in_flight = 0
    answered = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to listen."""
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.come = transport, b""

    def data_received(self, data: bytes) -> None:
        """Answer as soon as a request is whole."""
        self.come += data
        head, found, body = self.come.partition(b"\r\n\r\n")
        if found and len(body) >= int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]):
            self.come = b""
            Answering.in_flight += 1
            self.latency_s = LATENCY_S * random.uniform(0.5, 1.5)
            asyncio.get_running_loop().call_later(self.latency_s / 2, self._write, 0)

    def _write(self, piece: int) -> None:
        if piece < PIECES:
            self.transport.write(PIECE if piece else HEAD + PIECE)
            asyncio.get_running_loop().call_later(self.latency_s / 2 / PIECES, self._write, piece + 1)
        else:
            self.transport.write(END)
            Answering.in_flight -= 1
            Answering.answered += 1


async def serve() -> None:
    """Print the port, then each second the time, what is in flight and what has been answered."""
    server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    while True:
        await asyncio.sleep(1)
        print(time.time(), Answering.in_flight, Answering.answered, flush=True)


@dataclass(frozen=True)
class Second:
    """What one second's end is like: requests in flight, answers so far, the client's CPU seconds and memory."""

    at: float
    in_flight: int
    answered: int
    cpu_s: float
    rss_mb: float


@contextlib.contextmanager
def watched(seconds: list[Second]) -> Iterator[str]:
    """The server's URL, this process on one core and the server on another; each second is noted."""
    cores = sorted(os.sched_getaffinity(0))
    server = subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True)
    assert server.stdout
    psutil.Process(server.pid).cpu_affinity(cores[1:] or cores)
    me = psutil.Process()
    me.cpu_affinity(cores[:1])

    def note() -> None:
        for line in server.stdout or ():
            at, in_flight, answered = line.split()
            rss_mb = me.memory_info().rss / 2**20
            seconds.append(Second(float(at), int(in_flight), int(answered), time.process_time(), rss_mb))

    try:
        port = server.stdout.readline().strip()
        threading.Thread(target=note, daemon=True).start()
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()
        me.cpu_affinity(cores)


def figures(seconds: list[Second]) -> dict[str, float]:
    """The steady window's: from the first to the last second in which at least FULL of the most was in flight.

    Raises ValueError for a run too short to have one.
    """
    most = max(s.in_flight for s in seconds)
    full = [s for s in seconds if s.in_flight >= FULL * most]
    first, last = full[0], full[-1]
    answers = last.answered - first.answered
    if not answers:
        raise ValueError(f"{most} requests were in flight for no more than a second; ask for more rows")
    return {
        "api_concurrency": statistics.median(s.in_flight for s in seconds if first.at <= s.at <= last.at),
        "api_window_s": last.at - first.at,
        "api_full_after_s": first.at - seconds[0].at,
        "api_requests_per_s": answers / (last.at - first.at),
        "api_cpu_ms_per_request": 1000 * (last.cpu_s - first.cpu_s) / answers,
        "api_rss_growth_mb": max(s.rss_mb for s in seconds) - seconds[0].rss_mb,
    }


def run(generate: Callable[[str], None]) -> dict[str, float]:
    """The figures of `generate`, which is given the endpoint's URL."""
    seconds: list[Second] = []
    with watched(seconds) as url:
        generate(url)
    return figures(seconds)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve())

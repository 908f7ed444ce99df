"""A real S3 protocol server for tests: moto on a free port, with one bucket; and a proxy that puts faults before it."""

import contextlib
import http.client
import os
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import pytest

from raystill import storage


class Proxy(ThreadingHTTPServer):
    """Forwards to the server; each request first takes the next fault of the script.

    `503`, `403` and `expired` are answered by itself, `hang` never; `lost` is done and not answered; of the answer, `cut`
    gives half, and `slow` 1 KiB at a time.
    """

    daemon_threads = True
    behind: str
    faults: list[str]
    hang_s: float = 5.0
    pause_s: float = 0.05
    watch: Callable[[str, str], str | None] = staticmethod(lambda command, path: None)
    """Sees each request's method and path before it is done; a fault that it names goes before the script."""
    fetched: list[str]
    """Paths of GET requests, in order."""
    wait_s = 0.0
    blind = False
    """Whether it ignores If-None-Match, as some stores do."""


REFUSALS = {"503": (503, b"SlowDown"), "403": (403, b"AccessDenied"), "expired": (400, b"ExpiredToken")}


class Forward(BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"

    def forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.watch(self.command, urlsplit(self.path).path)
        fault = fault or (self.server.faults.pop(0) if self.server.faults else "none")
        if fault in REFUSALS:
            status, code = REFUSALS[fault]
            self.answer(status, [b"<Error><Code>%s</Code></Error>" % code])
            return
        if fault == "hang":
            time.sleep(self.server.hang_s)
            self.close_connection = True
            return
        time.sleep(self.server.wait_s)
        if self.command == "GET":
            self.server.fetched.append(urlsplit(self.path).path)
        if self.server.blind:
            del self.headers["If-None-Match"]
        link = http.client.HTTPConnection(urlsplit(self.server.behind).netloc)
        link.request(self.command, self.path, body, dict(self.headers))
        found = link.getresponse()
        data = found.read()
        self.close_connection = fault in ("lost", "cut")
        if fault == "lost":
            self.connection.close()
            return
        pieces = [data]
        if fault == "slow":
            pieces = [data[at : at + 1024] for at in range(0, len(data), 1024)]
        half = len(data) // 2 if fault == "cut" else None
        self.answer(found.status, pieces, dict(found.getheaders()), half)

    def answer(
        self, status: int, pieces: list[bytes], headers: dict[str, str] | None = None, cut_at: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "server", "date"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(sum(map(len, pieces))))
        self.end_headers()
        for i, piece in enumerate(pieces if self.command != "HEAD" else []):
            time.sleep(self.server.pause_s * bool(i))
            self.wfile.write(piece[:cut_at])

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """`s3://bucket/prefix` on a fresh server that AWS_ENDPOINT_URL names while the block runs."""
    import boto3
    import httpx
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        for key, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            environment.setenv(key, value)
        httpx.post(
            f"http://{host}:{port}/moto-api/reset"
        ).raise_for_status()  # all servers of a process share one memory
        storage._client.cache_clear()
        boto3.client("s3").create_bucket(Bucket="bucket")
        yield "s3://bucket/prefix"
    storage._client.cache_clear()
    server.stop()


@contextlib.contextmanager
def before_s3() -> Iterator[Proxy]:
    """A proxy in front of the server, which AWS_ENDPOINT_URL then names."""
    proxy = Proxy(("127.0.0.1", 0), Forward)
    proxy.behind, proxy.faults, proxy.fetched = os.environ["AWS_ENDPOINT_URL"], [], []
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.server_address[1]}")
        storage._client.cache_clear()
        yield proxy
    proxy.shutdown()
    proxy.server_close()


@pytest.fixture
def s3() -> Iterator[str]:
    """`s3://bucket/prefix` on a fresh server."""
    with s3_server() as url:
        yield url

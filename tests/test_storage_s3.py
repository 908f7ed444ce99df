"""storage on a real S3 protocol server, also behind a proxy that answers 503, loses answers and forbids."""

import http.client
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from raystill import storage
from raystill.errors import StorageError


class Proxy(ThreadingHTTPServer):
    """Forwards to the server; each request first takes the next fault of the script."""

    daemon_threads = True
    behind: str
    faults: list[str]
    puts: int


class Forward(BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"

    def forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.server.faults.pop(0) if self.server.faults else "none"
        if fault in ("503", "403"):
            self.answer(
                int(fault), b"<Error><Code>%s</Code></Error>" % (b"SlowDown" if fault == "503" else b"AccessDenied")
            )
            return
        link = http.client.HTTPConnection(urlsplit(self.server.behind).netloc)
        link.request(self.command, self.path, body, dict(self.headers))
        found = link.getresponse()
        data = found.read()
        if fault == "lost":
            self.close_connection = True
            self.connection.close()
            return
        self.answer(found.status, data, dict(found.getheaders()))

    def answer(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "server", "date"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else data)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def faulty(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    proxy = Proxy(("127.0.0.1", 0), Forward)
    proxy.behind, proxy.faults = os.environ["AWS_ENDPOINT_URL"], []
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.server_address[1]}")
    storage._client.cache_clear()
    yield proxy
    proxy.shutdown()
    proxy.server_close()


def test_objects_are_written_listed_read_and_removed(s3: str) -> None:
    url = storage.join(s3, "a", "object")
    storage.write(url, b"one")
    storage.write(url, b"two")
    assert storage.exists(url)
    assert not storage.exists(storage.join(s3, "a", "obj"))
    assert [(e.url, e.size) for e in storage.entries(s3)] == [(url, 3)]
    assert storage.read(url) == b"two"
    with storage.open_read(url) as stream:
        assert stream.read() == b"two"
    storage.remove(url)
    assert storage.entries(s3) == []


def test_a_second_writer_loses(s3: str) -> None:
    url = storage.join(s3, "object")
    assert storage.put_if_absent(url, b"first")
    assert not storage.put_if_absent(url, b"second")
    assert storage.put_if_absent(url, b"first")
    assert storage.read(url) == b"first"
    storage.probe(s3)


def test_folders_go_up_and_come_down_whole(s3: str, tmp_path: Path) -> None:
    (tmp_path / "model" / "deep").mkdir(parents=True)
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "deep" / "weights").write_bytes(b"w" * 1000)
    storage.upload(tmp_path / "model", storage.join(s3, "model"))
    down = storage.download(storage.join(s3, "model"), tmp_path / "copy")
    assert (down / "deep" / "weights").read_bytes() == b"w" * 1000
    with pytest.raises(StorageError, match="holds nothing"):
        storage.download(storage.join(s3, "none"), tmp_path / "other")


def test_a_burst_of_503_passes(faulty: Proxy, s3: str) -> None:
    url = storage.join(s3, "object")
    faulty.faults = ["503", "503", "503"]
    assert storage.put_if_absent(url, b"data")
    faulty.faults = ["503", "503"]
    assert storage.read(url) == b"data"


def test_a_lost_answer_is_no_lost_object(faulty: Proxy, s3: str) -> None:
    url = storage.join(s3, "object")
    faulty.faults = ["lost"]
    assert storage.put_if_absent(url, b"ours")
    faulty.faults = ["lost"]
    assert not storage.put_if_absent(url, b"theirs")
    assert storage.read(url) == b"ours"


def test_a_forbidden_bucket_says_what_to_check(faulty: Proxy, s3: str) -> None:
    faulty.faults = ["403"]
    with pytest.raises(StorageError, match=r"refused.*AWS_PROFILE"):
        storage.put_if_absent(storage.join(s3, "object"), b"x")


def test_a_missing_bucket_says_how_to_make_it(s3: str) -> None:
    with pytest.raises(StorageError, match="bucket 'nowhere' does not exist; create it: aws s3 mb s3://nowhere"):
        storage.put_if_absent("s3://nowhere/object", b"x")
    with pytest.raises(StorageError, match="'nowhere' does not exist"):
        storage.entries("s3://nowhere/a")


def test_a_missing_object_says_so(s3: str) -> None:
    with pytest.raises(StorageError, match="does not exist; check the address"):
        storage.read(storage.join(s3, "nothing"))

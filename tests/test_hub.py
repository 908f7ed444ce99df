"""Hub models over the hub's own protocol, served by a local stub: a gated model, a branch that moves, a node's cache."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

TOKEN = "hf_canary9d2e"
LOAD = (
    "import sys; from raystill import models; found = models.resolve('org/tiny', sys.argv[1], offline=False); "
    "import os; asked = os.environ.get('ASKED', 'folder'); print(found.fingerprint); print(getattr(found, asked)()); "
    "print(found.weights_bytes()) if asked == 'papers' else None"
)


class Hub(ThreadingHTTPServer):
    """One gated model; `commit` is where its branch points."""

    daemon_threads = True
    files: dict[str, dict[str, bytes]]
    commit: str
    fetched: list[str]


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def answer(self, status: int, data: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def do_GET(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer(401, b"{}", X_Error_Code="GatedRepo")
            return
        path = self.path.partition("?")[0]
        if "/tree/" in path:
            held = self.server.files[path.rpartition("/tree/")[2]]
            listed = [{"type": "file", "path": n, "size": len(d), "oid": "0" * 40} for n, d in held.items()]
            self.answer(200, json.dumps(listed).encode())
            return
        if path.startswith("/api/models/org/tiny"):
            asked = path.rpartition("/revision/")[2] if "/revision/" in path else self.server.commit
            commit = asked if asked in self.server.files else self.server.commit
            files = [{"rfilename": name} for name in self.server.files[commit]]
            said = {"id": "org/tiny", "sha": commit, "siblings": files, "private": False, "tags": [], "downloads": 0}
            self.answer(200, json.dumps(said | {"likes": 0, "modelId": "org/tiny"}).encode())
            return
        commit, _, name = path.removeprefix("/org/tiny/resolve/").partition("/")
        data = self.server.files[commit][name]
        if self.command == "GET":
            self.server.fetched.append(f"{commit[:4]}/{name}")
        self.answer(200, data, ETag=f'"{hashlib.sha256(data).hexdigest()}"', X_Repo_Commit=commit)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub(("127.0.0.1", 0), Handler)
    first, second = "a" * 40, "b" * 40
    server.files = {c: {"config.json": json.dumps({"made": c[0]}).encode()} for c in (first, second)}
    server.commit, server.fetched = first, []
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def load(hub: Hub, folder: Path, root: str = "runs", **environment: str) -> subprocess.CompletedProcess[str]:
    env = {
        k: v for k, v in os.environ.items() if not k.startswith("HF_") and k.lower() not in ("http_proxy", "all_proxy")
    }
    env |= {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}", "HF_HOME": str(folder / "hf"), **environment}
    code = [sys.executable, "-c", LOAD, str(folder / root)]
    return subprocess.run(code, capture_output=True, text=True, env=env)


def test_a_gated_model_loads_with_a_token_from_the_environment_or_a_file(hub: Hub, tmp_path: Path) -> None:
    by_variable = load(hub, tmp_path, HF_TOKEN=TOKEN)
    assert by_variable.returncode == 0, by_variable.stderr
    (tmp_path / "token").write_text(TOKEN)
    by_file = load(hub, tmp_path, HF_TOKEN_PATH=str(tmp_path / "token"))
    assert by_file.stdout == by_variable.stdout
    assert hub.fetched == ["aaaa/config.json"]
    commit, folder = by_file.stdout.split()
    assert commit == "a" * 40
    assert json.loads((Path(folder) / "config.json").read_text()) == {"made": "a"}


def test_papers_leave_the_weights_where_they_are_and_know_their_size(hub: Hub, tmp_path: Path) -> None:
    hub.files["a" * 40]["model.safetensors"] = b"w" * 1000
    papers = load(hub, tmp_path, HF_TOKEN=TOKEN, ASKED="papers")
    assert papers.returncode == 0, papers.stderr
    assert hub.fetched == ["aaaa/config.json"]
    assert papers.stdout.split()[-1] == "1000"
    whole = load(hub, tmp_path, HF_TOKEN=TOKEN)
    assert sorted(hub.fetched) == ["aaaa/config.json", "aaaa/model.safetensors"]
    assert whole.stdout.split()[1] == papers.stdout.split()[1]


def test_without_a_token_the_error_says_what_to_set_and_holds_no_secret(hub: Hub, tmp_path: Path) -> None:
    refused = load(hub, tmp_path)
    assert "HF_TOKEN" in refused.stderr
    wrong = load(hub, tmp_path, HF_TOKEN="hf_wrong77")
    assert "hf_wrong77" not in wrong.stderr + wrong.stdout


def test_a_branch_that_moves_changes_no_run_that_has_begun(hub: Hub, tmp_path: Path) -> None:
    before = load(hub, tmp_path, HF_TOKEN=TOKEN).stdout
    assert before.split()[0] == "a" * 40
    hub.commit = "b" * 40
    assert load(hub, tmp_path, HF_TOKEN=TOKEN).stdout == before
    assert load(hub, tmp_path, "fresh", HF_TOKEN=TOKEN).stdout.split()[0] == "b" * 40

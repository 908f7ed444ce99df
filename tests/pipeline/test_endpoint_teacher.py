"""Whole commands with a teacher behind a URL: no Ray, a key that is nowhere, and rejects that are asked for again."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from fixtures_openai import KEY, Server, chunk, events, good

USAGE = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}


def recipe(folder: Path, server: Server) -> str:
    rows = [{"id": f"r{i}", "prompt": f"question {i}"} for i in range(30)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    path = folder / "recipe.yaml"
    path.write_text(
        f"name: paid\ntask: conversation\nroot: {folder / 'runs'}\nmax_error_rate: 0.2\nbudget: {{usd: 5}}\n"
        f"data: {{train: {folder / 'rows.jsonl'}, prompt: prompt, id: id, split: {{test: 0}}}}\n"
        f"teacher: {{kind: endpoint, endpoint: {{url: '{server.url}', model: m, key_env: CANARY_KEY, "
        "price: {input: 1, output: 1}}}\n"
        f"student: {{model: {folder / 'model'}}}\n"
    )
    return str(path)


def run(path: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "raystill", "run", path, *options]
    return subprocess.run(command, capture_output=True, text=True)


def generations(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(p.read_text()) for p in (folder / "runs" / "generate").glob("*/manifest.json")]
    return sorted(found, key=lambda m: m["counts"]["answers"])


def test_rejects_of_a_bad_hour_are_asked_again_and_the_key_is_nowhere(server: Server, tmp_path: Path) -> None:
    down = True

    def says(i: int, body: dict[str, Any]) -> Any:
        asked = body["messages"][-1]["content"]
        # A 200 that is cut may pass another time, and is no sign of an endpoint that is down.
        if down and asked.endswith("7"):
            return 200, {}, events(chunk(content="He"), done=False)
        return 200, {}, events(chunk(content=f"said {asked}"), chunk("stop"), USAGE)

    server.says = says
    path = recipe(tmp_path, server)
    assert run(path, "--only", "prepare").returncode == 0
    first = run(path, "--only", "generate")
    assert first.returncode == 0, first.stderr
    (made,) = generations(tmp_path)
    assert (made["counts"]["answers"], made["counts"]["transient"]) == (27, 3)

    down, before = False, len(server.asked)
    again = run(path, "--only", "generate", "--retry-rejected")
    assert again.returncode == 0, again.stderr
    assert sorted(a["messages"][-1]["content"] for a in server.asked[before:]) == [f"question {i}" for i in (17, 27, 7)]
    assert [m["counts"]["answers"] for m in generations(tmp_path)] == [27, 30]
    assert run(path, "--only", "generate", "--retry-rejected").returncode == 0
    assert len(server.asked) == before + 3

    assert server.asked[0]["key"] == f"Bearer {KEY}"
    everything = [p.read_bytes() for p in (tmp_path / "runs").rglob("*") if p.is_file()]
    outputs = [first.stdout, first.stderr, again.stdout, again.stderr]
    assert not any(KEY.encode() in data for data in everything)
    assert not any(KEY in text for text in outputs)


def test_a_spent_budget_says_what_is_left_and_exits_1(server: Server, tmp_path: Path) -> None:
    server.script(good())
    path = recipe(tmp_path, server)
    text = Path(path).read_text().replace("usd: 5", "usd: 0.0002")
    Path(path).write_text(text)
    assert run(path, "--only", "prepare").returncode == 0
    done = run(path, "--only", "generate")
    assert done.returncode == 1
    assert "raise budget.usd and run again" in done.stderr
    assert "units are done" in done.stderr

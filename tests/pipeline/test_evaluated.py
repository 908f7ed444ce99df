"""One run with all that evaluate can ask: turns under an objective, a judge, further rows, and lm-eval's own client."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures_openai import Server, good

pytestmark = pytest.mark.slow
TASK = """
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: sums.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["?"], max_gen_toks: 4}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


def recipe(folder: Path, model: Path, judge: str) -> str:
    rows = [{"id": f"r{i}", "prompt": f"question {i}", "reference": f"answer {i}"} for i in range(60)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "hard.jsonl").write_text("\n".join(json.dumps(row | {"id": f"h{i}"}) for i, row in enumerate(rows[:3])))
    sums = [{"question": f"{i} + 1 =", "answer": str(i + 1)} for i in range(4)]
    (folder / "sums.jsonl").write_text("\n".join(map(json.dumps, sums)))
    (folder / "sums.yaml").write_text(TASK)
    path = folder / "recipe.yaml"
    path.write_text(
        f"name: evaluated\ntask: conversation\nroot: {folder / 'runs'}\nprices: {{machine_hour: 3.6}}\n"
        f"data: {{train: {folder / 'rows.jsonl'}, prompt: prompt, reference: reference, id: id, split: {{test: 0.2}}}}\n"
        "teacher: {kind: reference}\n"
        f"student: {{model: {model}}}\n"
        "curate: {filters: [empty]}\n"
        "train: {epochs: 1, learning_rate: 1.0e-3, max_length: 256, validations: 0}\n"
        "evaluate:\n"
        "  {limit: 4, max_tokens: 8, load: [1], load_requests: 4, together: true,\n"
        "   objective: {latency_p95_s: 60}, max_users: 2,\n"
        f"   judge: {{endpoint: {{url: '{judge}', model: scripted-judge, key_env: CANARY_KEY}}, against: [baseline]}},\n"
        f"   suites: {{hard: {{data: {folder / 'hard.jsonl'}}}, sums: {{lm_eval: {folder / 'sums.yaml'}, limit: 3}}}}}}\n"
    )
    return str(path)


def test_one_run_asks_all_of_it_and_a_second_asks_nothing(server: Server, tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    server.script(good('{"winner": "1"}'))
    command = [sys.executable, "-m", "raystill", "run", recipe(tmp_path, tiny_model, server.url)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "reports" / "evaluated"
    report = json.loads((folder / "report.json").read_text())
    for name in ("baseline", "student"):
        model = report["models"][name]
        assert model["users"] == {"served": 2, "broken_at": None, "objective": {"latency_p95_s": 60.0}}
        assert [(x["concurrency"], x["requests"], x["errors"]) for x in model["load"]] == [(1, 4, 0), (2, 8, 0)]
        # 2 layers, keys and values, one head of 32 numbers, float32
        assert model["load"][0]["kv_bytes_per_token"] == 2 * 2 * 32 * 4
        assert model["load"][0]["peak_memory_bytes"] > 100 << 20 and model["cost_per_million_tokens"] > 0
        assert report["suites"]["hard"]["models"][name]["accuracy"]["rows"] == 3
        assert report["suites"]["sums"]["models"][name]["sums: exact_match"]["rows"] == 3
    (pair,) = report["judge"]["lines"]
    assert report["judge"]["simulated"] and (pair["model"], pair["against"]) == ("student", "baseline")
    assert pair["counts"]["unread"] == 0 and sum(pair["counts"].values()) == 4
    page = (folder / "report.html").read_text()
    assert "What a judge says" in page and "Further test data" in page

    asked = len(server.asked)
    again = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert len(server.asked) == asked
    assert (folder / "judge.md").read_text().startswith("Judged by scripted-judge")

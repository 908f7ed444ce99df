"""The installed command: a mistake is a message and an exit code, never a traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = str(Path(sys.executable).parent / "raystill")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["plan", "none.yaml"], 2, "none.yaml does not exist"),
        (["show", "none.yaml", "generate"], 2, "raystill init"),
        (["run", "none.yaml"], 2, "raystill init"),
        (["tune", "none.yaml"], 2, "raystill init"),
        (["init", "none.jsonl"], 3, "none.jsonl"),
        (["fetch-model", "llama"], 3, "known: smollm2"),
    ],
)
def test_a_mistake_is_a_message_and_an_exit_code(tmp_path: Path, arguments: list[str], code: int, says: str) -> None:
    done = subprocess.run([COMMAND, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert says in done.stdout + done.stderr
    assert "Traceback" not in done.stderr

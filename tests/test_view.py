"""view and noise: what the user sees, and what they do not."""

import io
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.live import Live

from raystill import noise, view


def test_plain_lines_have_done_rates_and_rejects() -> None:
    out = io.StringIO()
    with view.view(out) as progress:
        progress.start("generate", 4, "units")
        for _ in range(4):
            progress.advance(1, rows=256, tokens=1000, rejects=1)
        progress.start("train student", 2, "steps")
        progress.advance(2, loss=0.25)
        progress.say("a line")
    text = out.getvalue()
    assert "generate ..." in text and "4/4 units" in text and "4 rejects" in text
    assert "loss 0.25" in text and "a line" in text


def test_a_stage_without_total_has_no_time_left() -> None:
    assert "left" not in view.Stage("serve", None, "models", done=1).line()


def test_rates_are_shown_once_they_mean_something() -> None:
    stage = view.Stage("generate", 4, "units", started=time.monotonic() - 10)
    stage.add(2, {"tokens": 1000.0})
    assert "100 tokens/s" in stage.line()
    assert "tokens/s" not in view.Stage("generate", 4, "units", sums={"tokens": 1000.0}).line()


def test_a_running_stage_says_what_is_left() -> None:
    assert "left" in view.Stage("train", 10, "steps", done=5).line()


def test_noise_of_python_c_and_children_goes_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    code = (
        "import os, subprocess, sys; from pathlib import Path; from raystill.noise import engine_log\n"
        f"with engine_log(Path({str(log)!r})) as terminal:\n"
        "    print('python noise'); os.write(2, b'c noise\\n'); subprocess.run(['echo', 'child noise'])\n"
        "    terminal.write('for the user\\n')\n"
        "print('after')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "for the user\nafter\n"
    assert done.stderr == ""
    assert {"python noise", "c noise", "child noise"} <= set(log.read_text().splitlines())
    assert log.stat().st_mode & 0o077 == 0


def test_the_screen_shows_what_ended_what_runs_and_what_waits() -> None:
    screen = view.Screen(Live(console=Console(file=io.StringIO())), ["prepare", "generate", "curate", "train student"])
    screen.start("prepare", None, "rows")
    screen.start("curate", 2, "parts")
    marks = [line.split()[:2] for line in screen.render().plain.splitlines()]
    assert marks == [["✓", "prepare"], ["·", "curate"], ["○", "train"]]


def test_descriptors_come_back_after_an_error(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from raystill.noise import engine_log\n"
        "try:\n"
        f"    with engine_log(Path({str(tmp_path / 'log')!r})): raise KeyboardInterrupt\n"
        "except KeyboardInterrupt: print('back')\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "back\n"


def test_the_telling_lines_are_those_that_say_what_went_wrong(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        "INFO fine\n\x1b[36m(worker)\x1b[0m RuntimeError: out of memory\nEngineDeadError: noise at shutdown\n"
    )
    assert noise.telling_lines(log) == ["(worker) RuntimeError: out of memory"]

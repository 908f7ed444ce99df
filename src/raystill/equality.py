"""Whether two mathematical expressions in LaTeX are equal, by math-verify (SymPy behind an ANTLR grammar).

Answers are untrusted, and SymPy may well compute 9^9^9^9 in C, where no signal reaches it. So it runs in a process of its
own, of limited memory, which is ended when a pair takes too long. Only the LaTeX grammar is used: math-verify's other
parser hands its text to `eval`.
"""

import atexit
import contextlib
import json
import select
import subprocess
import sys
from typing import Any

from raystill.errors import StageError

LONGEST = 300
"""Characters of an expression; longer ones are compared as text alone."""
PAIR_S = 5.0
START_S = 60.0
"""Time for importing SymPy on a busy machine."""
MEMORY_BYTES = 2 << 30


class Judge:
    """The other process, started when first asked and again after it had to be ended."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        atexit.register(self.close)

    def equal(self, reference: str, answer: str) -> bool:
        """Whether both are the same expression; False, too, where that cannot be found out in time and memory.

        Raises StageError where math-verify cannot be had.
        """
        if max(len(reference), len(answer)) > LONGEST:
            return False
        if self._process is not None and self._process.poll() is not None:
            self.close()
        if self._process is None and self._ask(None, START_S) != "ready":
            raise StageError(
                "answers in LaTeX cannot be compared: math-verify does not start here; pip install math-verify"
            )
        return self._ask([reference, answer], PAIR_S) == "true"

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _ask(self, pair: list[str] | None, timeout_s: float) -> str:
        """The process's next line, after it was given a pair; when none comes, the process is ended."""
        if self._process is None:
            command = [sys.executable, "-m", "raystill.equality"]
            null, pipe = subprocess.DEVNULL, subprocess.PIPE
            # A session of its own, so that Ctrl-C reaches raystill alone; it ends with its standard input.
            self._process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=null, text=True, start_new_session=True
            )
        sent, said = self._process.stdin, self._process.stdout
        assert sent and said
        with contextlib.suppress(BrokenPipeError):
            sent.write(json.dumps(pair) + "\n" if pair else "")
            sent.flush()
        line = said.readline().strip() if select.select([said], [], [], timeout_s)[0] else ""
        if not line:
            self.close()
        return line


def serve() -> None:
    """Say "ready", then answer pairs on standard input, a JSON list a line, by "true" or "false" a line."""
    import resource

    from math_verify import LatexExtractionConfig, parse, verify

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    grammar = [LatexExtractionConfig()]

    def read(text: str) -> Any:
        return parse(rf"\boxed{{{text}}}", extraction_config=grammar, parsing_timeout=None)

    _say("ready")
    for line in sys.stdin:
        reference, answer = json.loads(line)
        # What cannot be parsed or compared is unequal to math-verify.
        _say(json.dumps(bool(verify(read(reference), read(answer), timeout_seconds=None))))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    serve()

import json
import time
from pathlib import Path

import pytest

from raystill import recipe
from raystill.records import Prompt
from raystill.tasks.math import Math

TASK = Math((), recipe.Task(kind="math"))
GSM8K = Path(__file__).parents[3] / "shared" / "data" / "gsm8k" / "train.jsonl"


def prompt(reference: str | None) -> Prompt:
    return Prompt("1", None, [], None, "math", "rows.jsonl:1", "test", reference, "{}")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("She sold 24 in May.\nAnswer: 72 clips", "72"),
        ("48 + 24 = 72\n#### 72", "72"),
        ("so it is \\boxed{\\frac{7}{8}}, I think", "7/8"),
        ("I first thought \\boxed{1}. No: \\boxed{x_{2} + 1}.", "x_{2} + 1"),
        ("Answer: $1,234.50", "2469/2"),
        ("It takes 3 1/2 hours", "7/2"),
        ("Answer: **18** eggs per day.", "18"),
        ("Answer: 50%", "50"),
        ("x = -5", "-5"),
        ("-\\frac{1}{2}", "-1/2"),
        ("x^2+1", "x^2+1"),
        ("\\text{Monday}", "\\text{Monday}"),
        ("Answer: 5 or 6", "5 or 6"),
        ("Answer: 1/0", "1/0"),
        ("Answer: x < 5", "x < 5"),
        ("She bought 3 pens for 12 dollars.", "12"),
        ("I do not know.", None),
        ("", None),
    ],
)
def test_the_final_answer(text: str, answer: str | None) -> None:
    assert TASK.parse(text) == answer
    assert TASK.check(prompt(None), text) == (None if answer else "no final answer")


@pytest.mark.parametrize(
    ("reference", "text", "right"),
    [
        ("#### 72", "Answer: 72.0", True),
        ("1/3", "0.333333333", True),
        ("1/3", "0.33", False),
        ("0", "0.0000001", False),
        ("72", "Answer: 72 or 73", False),
        ("(x+1)^2", "\\boxed{x^2+2x+1}", True),
        ("(x+1)^2", "\\boxed{x^2+2x}", False),
        ("\\frac{\\sqrt{8}}{2}", "Answer: \\sqrt{2}", True),
        ("72", "I do not know.", False),
    ],
)
def test_values_are_compared(reference: str, text: str, right: bool) -> None:
    assert TASK.score(prompt(reference), text) == {"accuracy": float(right)}


def test_a_row_that_ends_in_nothing_is_not_judged() -> None:
    assert TASK.score(prompt("unknown"), "72") == TASK.score(prompt(None), "72") == {}


@pytest.mark.parametrize("text", ["Answer: __import__('os').abort()", "Answer: " + "9," * 50_000 + "9", "9" * 100_000])
def test_hostile_answers_neither_hang_nor_run(text: str) -> None:
    started = time.monotonic()
    assert TASK.score(prompt("x+1"), text) == {"accuracy": 0.0}
    assert time.monotonic() - started < 30


@pytest.mark.skipif(not GSM8K.exists(), reason="GSM8K is not beside the checkout (shared/data/gsm8k/train.jsonl)")
def test_gsm8k_references_are_read_and_right_by_themselves() -> None:
    rows = [json.loads(line) for line in GSM8K.read_text().splitlines()]
    assert len(rows) > 7000
    for row in rows:
        solution, _, last = row["answer"].rpartition("#### ")
        value = str(int(last.replace(",", ""))) if "." not in last else TASK.parse(last)
        assert TASK.wanted(row["answer"]) == value
        asked = prompt(row["answer"])
        assert TASK.score(asked, f"{solution}Answer: ${last}.00" if "." not in last else last) == {"accuracy": 1.0}
        assert TASK.score(asked, f"So it is {last}1.") == {"accuracy": 0.0}

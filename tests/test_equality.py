"""LaTeX compared by another process, which nothing that is asked can keep."""

import time
from collections.abc import Iterator

import pytest

from raystill import equality


@pytest.fixture(scope="module")
def judge() -> Iterator[equality.Judge]:
    made = equality.Judge()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("reference", "answer", "equal"),
    [
        (r"\frac{1}{2}", "0.5", True),
        ("(x+1)^2", "x^2+2x+1", True),
        ("[0,1)", "[0,1]", False),
        (r"\{1,2\}", r"\{2,1\}", True),
        (r"(3,\frac{\pi}{2})", r"(3,\pi/2)", True),
        (r"\text{Monday}", "Tuesday", False),
        ("x+1", r"\frac{", False),
        ("x" * (equality.LONGEST + 1), "x" * (equality.LONGEST + 1), False),
    ],
)
def test_pairs(judge: equality.Judge, reference: str, answer: str, equal: bool) -> None:
    assert judge.equal(reference, answer) is equal


def test_what_takes_too_long_is_unequal_and_the_next_pair_is_judged(
    judge: equality.Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(equality, "PAIR_S", 1.0)
    started = time.monotonic()
    assert judge.equal("9^{9^{9^{9}}}", "1") is False
    assert time.monotonic() - started < 30
    monkeypatch.undo()
    assert judge.equal("2x", "x+x") is True


def test_a_process_that_is_gone_is_started_again(judge: equality.Judge) -> None:
    assert judge.equal("1", "1") is True
    assert judge._process
    judge._process.kill()
    judge._process.wait()
    assert judge.equal("x+x", "2x") is True

"""What a pair has in common decides what can be learnt, and the table says why."""

from dataclasses import replace

import pytest

from raystill import printed
from raystill.compatibility import Side, pair
from raystill.shapes import KNOWN

LLAMA, QWEN = KNOWN["meta-llama/Llama-3.1-8B-Instruct"], KNOWN["Qwen/Qwen3-0.6B"]
TEACHER = Side("teacher", "big", True, LLAMA, {"a": 0, "b": 1}, "llama-ids", "t1")
TWIN = replace(TEACHER, name="student", model="small", shape=replace(LLAMA, layers=8))
STRANGER = Side("student", "small", True, QWEN, {"b": 0, "c": 1, "d": 2, "e": 3}, "qwen-ids", "t2")
NARROW = replace(TWIN, shape=replace(LLAMA, hidden=2048, heads=16))


def allowed(teacher: Side, student: Side) -> dict[str, str]:
    return {t.kind: t.possible for t in pair(teacher, student).transfers}


@pytest.mark.parametrize(
    ("teacher", "student", "wanted"),
    [
        (TEACHER, TWIN, ["yes", "yes", "no", "yes", "yes"]),
        (TEACHER, NARROW, ["yes", "yes", "no", "yes", "yes"]),
        (TEACHER, STRANGER, ["yes", "no", "yes", "no", "no"]),
        (replace(TEACHER, weights=False), TWIN, ["yes", "no", "no", "no", "no"]),
        (replace(TEACHER, tokenizer=None, tokens=None), TWIN, ["yes", *["unknown"] * 4]),
        (replace(TEACHER, shape=None), TWIN, ["yes", "yes", "no", "unknown", "unknown"]),
    ],
    ids=["one family", "narrower", "two tokenizers", "behind a URL", "not at hand", "config not at hand"],
)
def test_kinds_of_transfer(teacher: Side, student: Side, wanted: list[str]) -> None:
    kinds = ["text", "soft targets", "soft targets by bytes", "hidden layers", "attention"]
    assert allowed(teacher, student) == dict(zip(kinds, wanted, strict=True))


def why(teacher: Side, student: Side, kind: str) -> str:
    return next(t.why for t in pair(teacher, student).transfers if t.kind == kind)


def test_it_says_what_projection_and_heads_it_takes() -> None:
    assert "no projection; 8 layers against 32" in why(TEACHER, TWIN, "hidden layers")
    assert "projection from 2,048 to 4,096" in why(TEACHER, NARROW, "hidden layers")
    assert "in packed rows" in why(TEACHER, TWIN, "attention")
    assert "16 heads against 32: averaged" in why(TEACHER, NARROW, "attention")
    assert "25% of the student's tokens" in why(TEACHER, STRANGER, "soft targets")


def test_the_table_is_aligned_and_names_the_licences_terms() -> None:
    lines = printed.pair(pair(TEACHER, STRANGER)).splitlines()
    assert lines[1].split() == ["teacher", "student"]
    column = lines[1].index("student")
    rows = {line.split()[0]: line for line in lines[2:12]}
    assert rows["tokenizer"][column:] == "4 tokens"
    assert rows["width"].split()[1:] == ["4,096", "1,024"]
    assert rows["licence"].split()[1:] == ["llama3.1", "apache-2.0"]
    assert any("must be called Llama-…" in line for line in lines)
    assert "tokenizer   2 tokens" in printed.pair(pair(TEACHER, TWIN))
    assert "the same" in printed.pair(pair(TEACHER, TWIN))

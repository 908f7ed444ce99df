import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raystill import artifacts, recipe
from raystill.artifacts import Manifest, Outcome, Table
from raystill.context import Context
from raystill.errors import DataError, Interrupted, StageError
from raystill.records import Example, Generation, Ids, Message
from raystill.stages import curate

FACTS = {"teacher": "tiny", "tokenizer": "0123"}
CONVERSATION, CLASSIFICATION = recipe.Task(kind="conversation"), recipe.Task(kind="classification")


class Quiet:
    """A progress view that shows nothing."""

    def start(self, stage: str, total: int | None, unit: str) -> None: ...

    def advance(self, done: int = 1, **scalars: float) -> None: ...

    def say(self, text: str) -> None: ...


def row(i: int, text: str, split: str = "train", **changes: Any) -> Generation:
    asked = Generation(str(i), None, [Message("user", f"say {i}")], None, "conversation", f"f:{i}", split, None, "{}")
    return replace(asked, **{"teacher": "t", "text": text, "output_tokens": 2, "completion_ids": Ids([1, 2])} | changes)


def table(folder: Path, *parts: list[Generation]) -> Table:
    files = [artifacts.write_part(str(folder), rows[0].split, Generation, rows) for rows in parts]
    return Table(str(folder), "g", Manifest("generations", 1, "generate", 1, "g", {}, {}, files, facts=FACTS))


def context(folder: Path) -> Context:
    return Context(str(folder), recipe.Compute(), Quiet(), 0.05, folder)


def examples(folder: Path, outcome: Outcome) -> list[Example]:
    made = Table(str(folder), "e", Manifest("examples", 1, "curate", 1, "e", {}, {}, list(outcome.files)))
    return sorted(made.rows(Example), key=lambda e: (e.id, e.sample_index))


def test_every_drop_is_counted_by_reason_and_noted_without_content(tmp_path: Path) -> None:
    generations = table(
        tmp_path / "in",
        [
            row(1, "secret answer one"),
            row(2, " "),
            row(3, "cut", finish_reason="length"),
            row(4, "a loop", output_tokens=9999),
            row(5, "", finish_reason="error", error="prompt too long"),
        ],
        [row(6, "yes"), row(6, "yes", sample_index=1), row(6, "other", sample_index=2)],
        [row(7, "kept", "validation"), row(8, "", "validation")],
    )
    outcome = curate.curate(recipe.Curate(), CONVERSATION, {"teacher": generations}, context(tmp_path / "out"))
    assert outcome.kind == "examples"
    assert outcome.counts == {
        "in": {"train": 8, "validation": 2},
        "kept": {"train": 3, "validation": 1},
        "dropped": {
            "train": {"error: prompt too long": 1, "empty": 1, "truncated": 1, "overlong": 1, "duplicate": 1},
            "validation": {"empty": 1},
        },
    }
    assert outcome.facts == {"tokenizers": {"teacher": "0123"}}
    kept = examples(tmp_path / "out", outcome)
    assert [(e.id, e.sample_index, e.split) for e in kept] == [
        ("1", 0, "train"), ("6", 0, "train"), ("6", 2, "train"), ("7", 0, "validation")
    ]  # fmt: skip
    assert kept[0].messages == [Message("user", "say 1"), Message("assistant", "secret answer one")]
    assert (kept[0].loss_turns, kept[0].completion_ids, kept[0].weight) == ([1], [1, 2], 1.0)
    noted = (tmp_path / "out" / "dropped.jsonl").read_text()
    assert [json.loads(line)["reason"] for line in noted.splitlines()].count("duplicate") == 1
    assert len(noted.splitlines()) == 6
    assert "cut" not in noted.replace("truncated", "") and "loop" not in noted


def test_invalid_answers_of_the_task_are_dropped(tmp_path: Path) -> None:
    generations = table(
        tmp_path / "in", [row(1, "card", reference="card"), row(2, "dunno", reference="cash"), row(3, "Cash.")]
    )
    outcome = curate.curate(recipe.Curate(), CLASSIFICATION, {"teacher": generations}, context(tmp_path / "out"))
    assert outcome.counts["dropped"]["train"] == {"names no single label": 1}
    assert [e.id for e in examples(tmp_path / "out", outcome)] == ["1", "3"]


def test_the_same_input_makes_the_same_files(tmp_path: Path) -> None:
    generations = table(tmp_path / "in", [row(i, f"answer {i % 3}") for i in range(9)])
    first = curate.curate(recipe.Curate(), CONVERSATION, {"teacher": generations}, context(tmp_path / "a"))
    second = curate.curate(recipe.Curate(), CONVERSATION, {"teacher": generations}, context(tmp_path / "b"))
    assert first.files == second.files


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [row(1, ""), row(2, ""), row(3, "x", finish_reason="length")],
            "all 3 train answers: empty .2., truncated .1.",
        ),
        ([row(1, "fine", "validation")], "there is no train row"),
    ],
)
def test_nothing_left_to_train_on_says_why_and_what_to_do(tmp_path: Path, rows: list[Generation], said: str) -> None:
    with pytest.raises(DataError, match=said):
        curate.curate(
            recipe.Curate(), CONVERSATION, {"teacher": table(tmp_path / "in", rows)}, context(tmp_path / "out")
        )


def test_own_filters_see_whole_prompts_or_the_whole_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_filters.py").write_text(
        "from raystill.filters import whole_set\n"
        "def best(rows, rules):\n"
        "    longest = {r.id: max(len(s.text) for s in rows if s.id == r.id) for r in rows}\n"
        "    return [None if len(r.text) == longest[r.id] else 'not best' for r in rows]\n"
        "@whole_set('text')\n"
        "def rare(rows, rules):\n"
        "    assert all(r.completion_ids == [] and r.messages == [] for r in rows)\n"
        "    texts = [r.text for r in rows]\n"
        "    return ['common' if texts.count(r.text) > 1 else None for r in rows]\n"
        "def short(rows, rules):\n"
        "    return []\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    generations = table(tmp_path / "in", [row(1, "aa"), row(1, "a", sample_index=1)], [row(2, "aa")], [row(3, "bb")])
    chosen = recipe.Curate(filters=["own_filters:best", "own_filters:rare"])
    outcome = curate.curate(chosen, CONVERSATION, {"teacher": generations}, context(tmp_path / "out"))
    assert outcome.counts["dropped"]["train"] == {"common": 2, "not best": 1}
    with pytest.raises(StageError, match="0 reasons for 2 rows"):
        curate.curate(
            recipe.Curate(filters=["own_filters:short"]),
            CONVERSATION,
            {"teacher": generations},
            context(tmp_path / "c"),
        )


def test_ctrl_c_stops_between_parts(tmp_path: Path) -> None:
    stopped = context(tmp_path / "out")
    stopped.stopping.set()
    with pytest.raises(Interrupted):
        curate.curate(recipe.Curate(), CONVERSATION, {"teacher": table(tmp_path / "in", [row(1, "x")])}, stopped)


def test_the_best_of_several_teachers_is_what_most_say(tmp_path: Path) -> None:
    small = table(tmp_path / "small", [row(1, "no"), row(2, "four")])
    large = table(tmp_path / "large", [replace(row(1, "Yes"), sample_index=i) for i in range(2)] + [row(2, "five")])
    chosen = recipe.Curate(filters=["best"])
    outcome = curate.curate(chosen, CONVERSATION, {"small": small, "large": large}, context(tmp_path / "out"))
    kept = {e.id: (e.teacher, e.messages[-1].content) for e in examples(tmp_path / "out", outcome)}
    assert kept == {"1": ("large", "Yes"), "2": ("small", "four")}
    assert outcome.counts["dropped"]["train"] == {"not the best of its prompt": 3}


def test_reasoning_is_learnt_only_when_the_recipe_says_so(tmp_path: Path) -> None:
    thought = replace(row(1, "four"), reasoning="two and two", completion_ids=Ids([1, 2, 3]))
    generations = {"teacher": table(tmp_path / "in", [thought])}
    for wanted in (False, True):
        out = tmp_path / str(wanted)
        outcome = curate.curate(recipe.Curate(reasoning=wanted), CONVERSATION, generations, context(out))
        (made,) = examples(out, outcome)
        assert made.messages[-1].reasoning == ("two and two" if wanted else None)
        assert made.completion_ids == ([1, 2, 3] if wanted else [])


@pytest.mark.parametrize(("wanted", "learnt"), [(False, "7"), (True, "Three and four.\nAnswer: 7")])
def test_a_chain_of_thought_is_learnt_only_when_the_recipe_says_so(tmp_path: Path, wanted: bool, learnt: str) -> None:
    rows = [row(1, "Three and four.\nAnswer: 7", completion_ids=Ids([5, 6])), row(2, "It is 7"), row(3, "Answer:")]
    task = recipe.Task(kind="math", chain_of_thought=True)
    generations = {"teacher": table(tmp_path / "in", rows)}
    outcome = curate.curate(recipe.Curate(reasoning=wanted), task, generations, context(tmp_path / "out"))
    (example,) = examples(tmp_path / "out", outcome)
    assert example.messages[-1].content == learnt
    assert example.completion_ids == ([5, 6] if wanted else [])
    assert outcome.counts["dropped"]["train"] == {"no 'Answer:' after its reasoning": 2}

"""prepare: rows become prompts, dealt by hash, in units that a new row hardly disturbs; what is left out is counted."""

import gzip
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raystill import storage
from raystill.artifacts import Manifest, Outcome, Table
from raystill.context import Context
from raystill.errors import DataError, Interrupted, RecipeError
from raystill.recipe import Compute, Data
from raystill.records import Message, Prompt
from raystill.stages import prepare


class Quiet:
    """A Progress that keeps what it is told."""

    def __init__(self) -> None:
        self.done = 0
        self.lines: list[str] = []

    def start(self, stage: str, total: int | None, unit: str) -> None: ...

    def advance(self, done: int = 1, **scalars: float) -> None:
        self.done += done

    def say(self, text: str) -> None:
        self.lines.append(text)


def put(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def texts(n: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"text": f"question {i}", "answer": f"answer {i}", "customer": i % 20} for i in range(start, start + n)]


def run(folder: Path, data: Data, max_error_rate: float = 0.0) -> Outcome:
    return prepare.prepare(data, "conversation", Context(str(folder), Compute(), Quiet(), max_error_rate, folder))


def table(folder: Path, outcome: Outcome) -> Table:
    return Table(str(folder), "f", Manifest("prompts", 1, "prepare", 1, "f", {}, {}, list(outcome.files)))


def prompts(folder: Path, data: Data, *splits: Any, max_error_rate: float = 0.0) -> list[Prompt]:
    return list(table(folder, run(folder, data, max_error_rate)).rows(Prompt, *splits))


def one(folder: Path, row: dict[str, Any], **data: Any) -> Prompt:
    """The only prompt of a file with one row."""
    file = put(folder / "one.jsonl", [row])
    (prompt,) = prompts(folder / "out", Data(train=file, split={"validation": 0, "test": 0}, **data))  # type: ignore[arg-type]
    return prompt


def test_a_plain_row_becomes_a_user_message_with_its_columns(tmp_path: Path) -> None:
    row = {"text": "Where is my order?", "answer": "On its way.", "extra": {"n": 1}}
    prompt = one(tmp_path, row, reference="answer")
    assert prompt.messages == [Message("user", "Where is my order?")]
    assert (prompt.reference, prompt.task, prompt.source, prompt.split) == (
        "On its way.",
        "conversation",
        "one.jsonl",
        "train",
    )
    assert json.loads(prompt.columns) == row and prompt.conversation_id is None and prompt.tools is None


def test_equal_rows_have_equal_ids_whatever_the_order_of_keys(tmp_path: Path) -> None:
    a, b = one(tmp_path, {"text": "a", "n": 1}), one(tmp_path, {"n": 1, "text": "a"})
    assert a.id == b.id != one(tmp_path, {"text": "a", "n": 2}).id


def test_a_conversation_keeps_calls_and_its_last_turn_is_the_reference(tmp_path: Path) -> None:
    calls = [{"id": "c1", "type": "function", "function": {"name": "track", "arguments": "{}"}}]
    row = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Where "}, {"type": "text", "text": "is it?"}]},
            {"role": "assistant", "content": None, "tool_calls": calls, "reasoning_content": "look it up"},
            {"role": "tool", "tool_call_id": "c1", "content": "in transit"},
            {"role": "assistant", "content": "On its way."},
        ],
        "tools": [{"type": "function"}],
        "customer": 7,
    }
    prompt = one(tmp_path, row)
    assert [m.role for m in prompt.messages] == ["system", "user", "assistant", "tool"]
    assert prompt.messages[1].content == "Where is it?"
    assert json.loads(prompt.messages[2].tool_calls or "") == calls and prompt.messages[2].reasoning == "look it up"
    assert prompt.messages[3].tool_call_id == "c1" and prompt.reference == "On its way."
    assert json.loads(prompt.tools or "") == row["tools"] and json.loads(prompt.columns) == {"customer": 7}


def test_sharegpt_rows_and_conversations_written_as_text_are_read(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi!"}]
    for value in (turns, json.dumps(turns)):
        prompt = one(tmp_path, {"conversations": value})
        assert (prompt.messages, prompt.reference) == ([Message("user", "Hello")], "Hi!")


def test_a_conversation_that_ends_with_a_question_has_no_reference(tmp_path: Path) -> None:
    turns = [{"role": r, "content": c} for r, c in (("user", "a"), ("assistant", "b"), ("user", "c"))]
    prompt = one(tmp_path, {"messages": turns})
    assert len(prompt.messages) == 3 and prompt.reference is None


def test_each_turn_becomes_a_prompt_with_the_history_before_it(tmp_path: Path) -> None:
    turns = [
        {"role": r, "content": c} for r, c in (("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    ]
    file = put(tmp_path / "a.jsonl", [{"messages": turns}])
    data = Data(train=file, turns="each", split={"validation": 0, "test": 0})  # type: ignore[arg-type]
    first, second = sorted(prompts(tmp_path / "out", data), key=lambda p: p.id)
    assert [len(first.messages), len(second.messages)] == [1, 3]
    assert (first.reference, second.reference) == ("b", "d")
    assert first.conversation_id == second.conversation_id and first.id != second.id
    with pytest.raises(RecipeError, match="turns: each"):
        run(tmp_path, Data(train=file, turns="each", reference="x"))


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "the conversation is empty"),
        ("not JSON", "the conversation is no JSON list"),
        ([7], "a message is no object"),
        ([{"content": "a"}], "a message has no role"),
        ([{"role": "wizard", "content": "a"}], "a message has an unknown role"),
        ([{"role": "user"}], "a message has no content"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "a message's content is not text"),
        ([{"role": "assistant", "content": "a"}], "the conversation asks nothing before its answer"),
    ],
)
def test_what_is_no_conversation_is_rejected(tmp_path: Path, messages: Any, reason: str) -> None:
    good = {"messages": [{"role": "user", "content": "a"}]}
    file = put(tmp_path / "a.jsonl", [good, {"messages": messages}])
    data = Data(train=file, split={"validation": 0, "test": 0})  # type: ignore[arg-type]
    assert run(tmp_path / "out", data, 0.5).counts["rejected"] == {reason: 1}


def test_a_template_joins_columns(tmp_path: Path) -> None:
    row = {"subject": "Order", "body": "Where?", "tags": ["a", "b"], "label": 3}
    prompt = one(tmp_path, row, prompt="{{ subject }}: {{ body }} {{ tags | join(', ') }}", reference="{{ label }}!")
    assert (prompt.messages[0].content, prompt.reference) == ("Order: Where? a, b", "3!")


def test_numbers_are_references_but_no_prompts(tmp_path: Path) -> None:
    assert one(tmp_path, {"text": "a", "label": 3}, reference="label").reference == "3"
    file = put(tmp_path / "a.jsonl", [{"text": "a"}, {"text": 5}, {"text": {"a": 1}}, {"text": " "}, {"other": 1}])
    data = Data(train=file, prompt="text", split={"validation": 0, "test": 0})  # type: ignore[arg-type]
    assert run(tmp_path / "out", data, 0.8).counts["rejected"] == {
        "the prompt is empty": 2,
        "column 'text' holds a number instead of text": 1,
        "column 'text' holds an object instead of text": 1,
    }


@pytest.mark.parametrize(
    "data", [{"prompt": "txt"}, {"reference": "txt"}, {"prompt": "{{ txt }}"}, {"id": "txt"}, {"split": {"by": "txt"}}]
)
def test_an_unknown_column_is_refused_with_those_that_exist(tmp_path: Path, data: dict[str, Any]) -> None:
    recipe = Data(train=put(tmp_path / "a.jsonl", texts(3)), **data)
    for call in (lambda: run(tmp_path, recipe), lambda: prepare.check_columns(recipe)):
        with pytest.raises(
            DataError, match="names the column 'txt', which does not exist; there are text, answer, customer"
        ):
            call()


def test_a_prompt_column_that_cannot_be_guessed_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"say which holds the prompt; there are body: data: \{prompt: body\}"):
        run(tmp_path, Data(train=put(tmp_path / "a.jsonl", [{"body": "a"}])))


def test_checking_columns_looks_at_no_missing_or_remote_file(tmp_path: Path) -> None:
    prepare.check_columns(Data(train=["s3://nowhere/a.jsonl", str(tmp_path / "missing.jsonl"), "owner/name"]))


def test_splits_are_stable_when_rows_are_added(tmp_path: Path) -> None:
    def dealt(n: int) -> dict[str, str]:
        file = put(tmp_path / "a.jsonl", texts(n))
        return {p.messages[0].content: p.split for p in prompts(tmp_path / f"{n}", Data(train=file))}

    few, many = dealt(1000), dealt(1500)
    assert few.items() <= many.items()
    shares = [sum(s == split for s in many.values()) / len(many) for split in ("train", "validation", "test")]
    assert shares == pytest.approx([0.85, 0.05, 0.1], abs=0.03)


def test_no_customer_straddles_splits(tmp_path: Path) -> None:
    data = Data(train=put(tmp_path / "a.jsonl", texts(400)), split={"by": "customer", "test": 0.3})  # type: ignore[arg-type]
    homes: dict[int, set[str]] = {}
    for prompt in prompts(tmp_path / "out", data):
        homes.setdefault(json.loads(prompt.columns)["customer"], set()).add(prompt.split)
    assert all(len(splits) == 1 for splits in homes.values()) and len(set.union(*homes.values())) > 1


def test_files_of_their_own_are_validation_and_test(tmp_path: Path) -> None:
    data = Data(
        train=put(tmp_path / "a.jsonl", texts(50)),
        validation=put(tmp_path / "v.jsonl", texts(5, 100)),
        test=put(tmp_path / "t.jsonl", texts(7, 200)),
    )
    assert run(tmp_path / "out", data).counts["rows"] == {"train": 50, "validation": 5, "test": 7}


def test_equal_rows_collapse_and_leaks_leave_train(tmp_path: Path) -> None:
    test = texts(10, 100)
    same_question = {"text": "question 101", "answer": "another answer"}
    data = Data(
        train=put(tmp_path / "a.jsonl", [*texts(50), *texts(50), test[0], same_question]),
        test=put(tmp_path / "t.jsonl", test),
        split={"validation": 0},  # type: ignore[arg-type]
    )
    outcome = run(tmp_path / "out", data)
    assert (outcome.counts["duplicates"], outcome.counts["leaks"], outcome.counts["rejected"]) == (50, 2, {})
    assert outcome.counts["rows"] == {"train": 50, "validation": 0, "test": 10}
    assert not {p.messages[0].content for p in table(tmp_path / "out", outcome).rows(Prompt, "train")} & {
        r["text"] for r in test
    }


def test_ids_of_the_data_are_kept_once_and_missing_ones_rejected(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "text": "a"},
        {"id": 1, "text": "b"},
        {"id": 1, "text": "a"},
        {"text": "c"},
        {"id": [2], "text": "d"},
    ]
    data = Data(train=put(tmp_path / "a.jsonl", rows), id="id", split={"validation": 0, "test": 0})  # type: ignore[arg-type]
    outcome = run(tmp_path / "out", data, 0.9)
    (prompt,) = table(tmp_path / "out", outcome).rows(Prompt)
    assert (prompt.id, prompt.messages[0].content, outcome.counts["duplicates"]) == ("1", "a", 1)
    assert outcome.counts["rejected"] == {
        "another row has the same id and other content": 1,
        "the id is missing": 1,
        "the id is neither text nor a whole number": 1,
    }


def test_a_larger_limit_keeps_what_a_smaller_one_kept(tmp_path: Path) -> None:
    def kept(limit: int) -> set[str]:
        data = Data(train=put(tmp_path / "a.jsonl", texts(300)), limit=limit)
        return {p.id for p in prompts(tmp_path / f"{limit}", data, "train")}

    assert (len(kept(20)), len(kept(100))) == (20, 100) and kept(20) < kept(100)


def test_bad_rows_are_listed_without_their_content_and_counted(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    good = json.dumps({"text": "good", "n": 1}).encode() + b"\n"
    file.write_bytes(good + b'{"text": "secret\n' + good.replace(b"1", b"2"))
    outcome = run(tmp_path / "out", Data(train=str(file), split={"validation": 0, "test": 0}), 0.4)  # type: ignore[arg-type]
    listed = (tmp_path / "out" / "rejected" / "train.jsonl").read_text()
    assert json.loads(listed) == {"file": str(file), "position": f"byte {len(good)}", "reason": "not JSON"}
    assert outcome.counts["rejected"] == {"not JSON": 1} and outcome.counts["read"] == 3
    described = {f.path: f.rows for f in outcome.files}
    assert described["rejected/train.jsonl"] == 1
    assert table(tmp_path / "out", outcome).read("rejected/train.jsonl").decode() == listed


def test_too_many_bad_rows_stop_with_reasons_places_and_what_to_type(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"text": "good"}\n' * 2 + b"oops\n" * 3 + b'{"text": "\xff"}\n')
    with pytest.raises(DataError) as caught:
        run(tmp_path / "out", Data(train=str(file), prompt="text"), 0.05)
    message = str(caught.value)
    assert "4 of 6 rows cannot be used (66.7%)" in message and "max_error_rate: 0.67" in message
    assert f"not JSON: 3, first at {file}: byte 34" in message and f"not UTF-8: 1, first at {file}: byte 49" in message
    assert (tmp_path / "out" / "rejected" / "train.jsonl").is_file()


def test_columns_that_drift_between_files_are_rejected_with_file_and_column(tmp_path: Path) -> None:
    a, b = put(tmp_path / "a.jsonl", texts(10)), put(tmp_path / "b.jsonl", [{"body": "x"}])
    run(tmp_path / "out", Data(train=[a, b], prompt="{{ text }}"), 0.5)
    listed = json.loads((tmp_path / "out" / "rejected" / "train.jsonl").read_text())
    assert listed["file"] == b and "missing" in listed["reason"]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"text,answer\n"])
def test_an_empty_file_is_nothing_to_learn_from(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / ("a.csv" if b"," in content else "a.jsonl")
    file.write_bytes(content)
    with pytest.raises(DataError, match="nothing to learn from"):
        run(tmp_path / "out", Data(train=str(file)))


def test_an_empty_split_is_said(tmp_path: Path) -> None:
    quiet = Quiet()
    data = Data(train=put(tmp_path / "a.jsonl", texts(2)), split={"test": 0.0001, "validation": 0})  # type: ignore[arg-type]
    prepare.prepare(data, "conversation", Context(str(tmp_path / "out"), Compute(), quiet, 0.0, tmp_path))
    assert quiet.done == 2 and [line for line in quiet.lines if "no test rows" in line]


def test_a_cut_archive_costs_one_rejection(tmp_path: Path) -> None:
    packed = gzip.compress("".join(json.dumps(row) + "\n" for row in texts(3000)).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    outcome = run(tmp_path / "out", Data(train=str(tmp_path / "a.jsonl.gz")), 0.01)
    assert list(outcome.counts["rejected"].values()) == [1] and outcome.counts["read"] > 1000


def test_ctrl_c_stops_between_rows(tmp_path: Path) -> None:
    stopping = threading.Event()
    stopping.set()
    context = Context(str(tmp_path / "out"), Compute(), Quiet(), 0.0, tmp_path, stopping)
    with pytest.raises(Interrupted):
        prepare.prepare(Data(train=put(tmp_path / "a.jsonl", texts(10))), "conversation", context)


def test_the_same_data_makes_the_same_files(tmp_path: Path) -> None:
    data = Data(train=put(tmp_path / "a.jsonl", texts(1000)))
    assert run(tmp_path / "one", data).files == run(tmp_path / "two", data).files


def test_prepare_writes_to_s3(s3: str, tmp_path: Path) -> None:
    storage.put_if_absent(f"{s3}/in/a.jsonl", "".join(json.dumps(r) + "\n" for r in texts(600)).encode())
    context = Context(f"{s3}/out", Compute(), Quiet(), 0.0, tmp_path)
    outcome = prepare.prepare(Data(train=f"{s3}/in/a.jsonl"), "conversation", context)
    stored = Table(f"{s3}/out", "f", Manifest("prompts", 1, "prepare", 1, "f", {}, {}, list(outcome.files)))
    assert len(list(stored.rows(Prompt))) == 600


def prompt(key: str) -> Prompt:
    return Prompt(key, None, [Message("user", "a")], None, "conversation", "f", "train", None, "{}")


@given(st.integers(0, 3000), st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_a_new_row_changes_only_its_own_unit(n: int, salt: int) -> None:
    rows = [prompt(f"{salt}-{i}") for i in range(n)]
    before = [tuple(p.id for p in unit) for unit in prepare.units(rows)]
    after = [tuple(p.id for p in unit) for unit in prepare.units([*rows, prompt("new")])]
    assert sorted(p for unit in before for p in unit) == sorted(p.id for p in rows)
    gone, made = set(before) - set(after), set(after) - set(before)
    assert len(gone) <= 1 and 1 <= len(made) <= 2
    assert {p for unit in made for p in unit} - {p for unit in gone for p in unit} == {"new"}


def test_units_hold_about_256_rows_whatever_the_order() -> None:
    rows = [prompt(str(i)) for i in range(20_000)]
    sizes = [len(unit) for unit in prepare.units(rows)]
    assert min(sizes) >= 64 and max(sizes) <= prepare.UNIT_ROWS and 150 < sum(sizes) / len(sizes) < 384
    assert list(prepare.units(rows[::-1])) == list(prepare.units(rows))

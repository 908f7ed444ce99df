"""The report of a finished line: real artifacts on disk, answers made up by hand, no model run."""

import json
import re
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from raystill import storage
from raystill.artifacts import Checkpoint, File, Manifest, Table, describe, write_part
from raystill.recipe import Recipe
from raystill.records import Answer, Example, Generation, Load, Message, Prompt
from raystill.reporting import figures
from raystill.reporting.table import next_steps, summary_table
from raystill.stages.report import report

HOSTILE = '<script>alert("1")</script><img src=x onerror=alert(2)>'
ROWS = 20
RIGHT = {"teacher": 18, "baseline": 1, "student": 17}
NOTED = {"learning_rate": 1e-5, "gradient_norm": 2.5, "resumed": False, "tokens_per_s": 900.0, "memory_bytes": 3e9}
MORE: list[dict[str, Any]] = [{}, NOTED | {"supervised_tokens_per_s": 300.0, "mfu": None, "tokens": 7}]
"""A first row as an older version wrote it."""
SECONDS = {"teacher": 0.8, "baseline": 0.2, "student": 0.2}


@dataclass(frozen=True)
class Made:
    """A line, as the pipeline hands it over."""

    prompts: Table
    generations: dict[str, Table]
    examples: Table
    models: dict[str, Checkpoint]
    answers: dict[str, Table] = field(default_factory=dict)
    loads: dict[str, Table] = field(default_factory=dict)
    targets: Table | None = None
    rounds: dict[str, list[Any]] = field(default_factory=dict)
    suites: dict[str, Any] = field(default_factory=dict)
    verdicts: Table | None = None


def recipe(root: Path, **changes: Any) -> Recipe:
    values = {
        "name": "small",
        "task": "conversation",
        "data": {"train": "train.jsonl"},
        "teacher": {"model": "big/teacher"},
        "student": {"model": "tiny/student"},
        "evaluate": {"resamples": 200},
        "prices": {"machine_hour": 3.6},
        "root": str(root),
    }
    return Recipe.model_validate(values | changes)


def manifest(stage: str, files: list[File], counts: dict[str, Any], facts: dict[str, Any] | None = None) -> Manifest:
    made = {"started_at": "2026-01-01T00:00:00+00:00", "elapsed_s": 10.0}
    return Manifest(stage, 1, stage, 1, f"{stage}-print", {}, {}, files, counts, facts or {}, made)


def table(root: Path, stage: str, files: list[File], counts: dict[str, Any]) -> Table:
    return Table(f"{root}/{stage}", f"{stage}-print", manifest(stage, files, counts))


def model(root: Path, name: str, parameters: int) -> Checkpoint:
    curve = "".join(
        json.dumps(
            {"step": i, "loss": 4 / i, "applied": i != 3, "validation_loss": 4 / i if i == 5 else None} | MORE[i > 1]
        )
        + "\n"
        for i in range(1, 6)
    ).encode()
    url = f"{root}/train-{name}"
    storage.write(f"{url}/a/curve.jsonl", curve)
    weights = File("a/model.safetensors", 0, 4 * parameters, "")
    adapter = File("a/adapter/adapter_model.safetensors", 0, 999, "")
    files = [describe("a/curve.jsonl", curve), weights, adapter]
    made = manifest("train", files, {"rejected": {"too long": 2}}, {"parameters": parameters})
    return Checkpoint(url, f"{name}-print", made)


def load(name: str, concurrency: int) -> Load:
    s = SECONDS[name]
    return Load(
        name,
        "one CPU",
        concurrency,
        32,
        0,
        32 * s,
        s / 4,
        s / 2,
        s / 40,
        s,
        s * 2,
        20 / s,
        concurrency / s,
        1000,
        5_000_000,
    )


def line(root: Path, *, references: bool = True) -> Made:
    prompts = [
        Prompt(
            f"p{i:02}",
            None,
            [Message("user", f"{HOSTILE} {i}")],
            None,
            "conversation",
            "t",
            "test",
            f"ok {i}" if references else None,
            "{}",
        )
        for i in range(ROWS)
    ]
    counts = {
        "read": 30,
        "rows": {"train": 8, "test": ROWS},
        "rejected": {"no prompt": 2},
        "duplicates": 1,
        "leaks": 0,
        "beyond_limit": 0,
    }
    prepared = table(
        root,
        "prepare",
        [write_part(f"{root}/prepare", s, Prompt, [replace(p, split=s) for p in prompts]) for s in ("test", "train")],
        counts,
    )
    generated = table(
        root,
        "generate",
        [write_part(f"{root}/generate", "train", Generation, [])],
        {"rows": 8, "answers": 7, "output_tokens": 70, "errors": {"timed out": 1}},
    )
    curated = table(
        root,
        "curate",
        [write_part(f"{root}/curate", "train", Example, [])],
        {"kept": {"train": 6}, "dropped": {"train": {"empty": 1, "error: timed out": 1}}},
    )
    answers = {}
    for name, right in RIGHT.items():
        rows = [
            Answer(p.id, name, "test", f"ok {i}" if i < right else f"{name} {HOSTILE}", "stop", 5, 5, 0.1, 0.2)
            for i, p in enumerate(prompts)
        ]
        answers[name] = table(
            root, f"answer-{name}", [write_part(f"{root}/answer-{name}", "test", Answer, rows)], {"errors": {}}
        )
    loads = {
        name: table(
            root,
            f"load-{name}",
            [write_part(f"{root}/load-{name}", "load", Load, [load(name, c) for c in (1, 8)])],
            {"loads": 2},
        )
        for name in RIGHT
    }
    models = {
        "teacher": model(root, "teacher", 1000),
        "baseline": model(root, "baseline", 100),
        "student": model(root, "student", 100),
    }
    return Made(prepared, {"teacher": generated}, curated, models, answers, loads)


def written(folder: str) -> tuple[dict[str, Any], str, str]:
    def strict(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    report_json, page, card = (
        storage.read(f"{folder}/{n}").decode() for n in ("report.json", "report.html", "MODEL_CARD.md")
    )
    return json.loads(report_json, parse_constant=strict), page, card


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, str]:
    root = tmp_path_factory.mktemp("line")
    return written(report(recipe(root), line(root)))


class Page(HTMLParser):
    """Tags of a page, its attributes and its headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_numbers_are_plain_and_right(small: tuple[dict[str, Any], str, str]) -> None:
    made, _, _ = small
    assert {n: made["models"][n]["accuracy"] for n in RIGHT} == {n: r / ROWS for n, r in RIGHT.items()}
    assert made["schema"] == 1
    assert made["retention"] == pytest.approx(17 / 18)
    low, high = made["retention_interval"]
    assert low <= made["retention"] <= high
    assert made["smaller"] == {"parameters": 10.0, "weights_bytes": 10.0}
    assert [s["seconds_per_answer"] for s in made["speedup"]] == pytest.approx([4.0, 4.0])
    assert [x["concurrency"] for x in made["models"]["student"]["load"]] == [1, 8]
    # 3.6 an hour is 0.001 a second; 8 at once of 0.2 s each are 40 answers a second
    assert made["models"]["student"]["cost_per_1000_answers"] == pytest.approx(0.001 / 40 * 1000)
    assert made["simulated"] is False


def test_rounds_say_how_stale_cut_off_and_biased_they_were(tmp_path: Path) -> None:
    made = line(tmp_path)
    counts = {"rows": 8, "answers": 8, "truncated": 2, "output_tokens": 80, "errors": {}}
    learner = Checkpoint(
        "s", "s", manifest("train", [], {"steps": 5, "rejected": {}}, {"drift": 0.25, "validation_loss": 1.5})
    )
    for consistent in (1.0, 0.5):
        of = SimpleNamespace(
            writer=made.models["student"],
            rollouts=table(tmp_path, "generate", [], counts),
            examples=table(tmp_path, "curate", [], {"kept": {}, "dropped": {}}),
            targets=Table("t", "t", manifest("score", [], {"errors": {}}, {"consistent": consistent})),
            learner=learner,
        )
        made.rounds["student"] = [of]
        found, page, _ = written(report(recipe(tmp_path), made))
        assert found["rounds"] == {
            "student": [
                {"answers": 8, "truncated": 0.25, "staleness_steps": 4, "drift": 0.25, "consistent": consistent,
                 "validation_loss": 1.5}
            ]
        }  # fmt: skip
        assert "On-policy rounds" in page and f"25.0{figures.THIN}%" in page
        assert any("wrote only 50% of what student learnt first" in note for note in found["notes"]) == (consistent < 1)
        assert {name: of["steps"] for name, of in found["training"].items()} == {
            "student before its rounds": 5,
            "student in round 1": 0,
        }
        assert "Student before its rounds: loss over 5 steps." in page
        # The student's own answers are none of its teacher's.
        assert found["data"]["answers"] == found["teachers"]["teacher"]["answers"] == 7
        assert [s["step"] for s in found["steps"] if "round" in s["step"]] == [
            f"{stage} student round 1" for stage in ("generate", "curate", "score", "train")
        ]


def test_every_drop_is_counted_once(small: tuple[dict[str, Any], str, str]) -> None:
    dropped = small[0]["dropped"]
    assert dropped["prepare"] == {"no prompt": 2, "the same prompt twice": 1}
    assert dropped["generate"] == {"timed out": 1}
    assert dropped["curate"] == {"empty": 1}
    assert dropped["train student"] == {"too long": 2}


def test_the_page_is_one_file_that_runs_nothing(small: tuple[dict[str, Any], str, str]) -> None:
    _, text, _ = small
    page = Page(text)
    assert HOSTILE not in text
    assert not {"script", "link", "iframe", "img", "object", "base"} & {tag for tag, _ in page.tags}
    assert not [a for _, attrs in page.tags for a in attrs if a.startswith("on") or a in ("src", "href")]
    assert "url(" not in text
    assert "default-src 'none'" in text


def test_the_page_can_be_found_around_in(small: tuple[dict[str, Any], str, str]) -> None:
    _, text, _ = small
    page = Page(text)
    names = [tag for tag, _ in page.tags]
    assert [names.count(t) for t in ("h1", "main", "header", "footer")] == [1, 1, 1, 1]
    assert names.count("table") == names.count("caption") > 3
    ids = {a["id"] for _, a in page.tags if "id" in a}
    assert {a["aria-labelledby"] for _, a in page.tags if "aria-labelledby" in a} <= ids
    assert page.tags[0][1]["lang"] == "en"
    assert all(a.get("scope") for tag, a in page.tags if tag == "th")


def test_the_headline_says_what_was_kept_and_saved(small: tuple[dict[str, Any], str, str]) -> None:
    title = re.search(r"<h1>(.*?)</h1>", small[1])
    assert title is not None
    said = title[1].replace("\u202f", " ")
    assert said == (
        "The student keeps 94.4 % of the teacher’s accuracy, answers 4 times faster, is 10 times smaller "
        "and costs 75.0 % less per answer."
    )


def test_rows_that_the_student_lost_lead(small: tuple[dict[str, Any], str, str]) -> None:
    first = small[1].split('<ol class="pairs">')[1].split("</li>")[0]
    assert "ok 17" in re.sub(r"<[^>]+>", "", first)
    assert 'class="verdict wrong"' in first


def test_the_card_has_front_matter_and_caveats(small: tuple[dict[str, Any], str, str]) -> None:
    _, _, card = small
    front = yaml.safe_load(card.split("---")[1])
    assert front["base_model"] == "tiny/student"
    assert "| accuracy |" in card
    assert "licences" in card


def test_the_terminal_gets_a_line_per_model(small: tuple[dict[str, Any], str, str]) -> None:
    text = summary_table(small[0])
    rows = {r.split()[0]: r for r in text.splitlines()[1:4]}
    assert set(rows) == set(RIGHT)
    assert "85.0 %" in rows["student"]
    assert "200 ms" in rows["student"]
    assert "student keeps 94.4 %" in text
    assert len(next_steps("jobs/small.yaml", "runs/reports/small").splitlines()) == 4


def test_without_references_accuracy_is_null_and_a_note_says_why(tmp_path: Path) -> None:
    made, page, _ = written(report(recipe(tmp_path, prices={}), line(tmp_path, references=False)))
    assert made["models"]["teacher"]["accuracy"] is None
    assert made["retention"] is None
    assert any("no accuracy" in n for n in made["notes"])
    assert made["models"]["student"]["cost_per_1000_answers"] is None
    assert "agrees with the teacher on" in page
    assert "student" in summary_table(made)


def test_a_scripted_teacher_is_called_simulated(tmp_path: Path) -> None:
    whole = line(tmp_path)
    asked = {n: a for n, a in whole.answers.items() if n != "teacher"}
    loads = {n: a for n, a in whole.loads.items() if n != "teacher"}
    models = {n: m for n, m in whole.models.items() if n != "teacher"}
    untaught = replace(whole, models=models, answers=asked, loads=loads)
    made, page, _ = written(report(recipe(tmp_path, teacher={"kind": "scripted"}), untaught))
    assert made["simulated"] is True
    assert made["models"]["teacher"]["accuracy"] is None
    assert "Simulated." in page
    assert "simulated" in summary_table(made)


def test_speeds_of_two_machines_are_never_compared(tmp_path: Path) -> None:
    whole = line(tmp_path)
    other = [replace(load("teacher", 1), hardware="another")]
    moved = table(tmp_path, "moved", [write_part(f"{tmp_path}/moved", "load", Load, other)], {})
    made, _, _ = written(report(recipe(tmp_path), replace(whole, loads=whole.loads | {"teacher": moved})))
    assert made["speedup"] == []
    assert any("different kinds of machine" in n for n in made["notes"])


def test_a_teacher_behind_a_url_is_compared_by_its_answers_and_its_price(tmp_path: Path) -> None:
    whole = line(tmp_path)
    counted = whole.answers["teacher"]
    paid = table(
        tmp_path,
        "answer-teacher",
        counted.parts(),
        {"rows": ROWS + 5, "errors": {"HTTP 500": 5}, "cost": 0.4, "output_tokens": 800},
    )
    dear = {"rows": 3, "answers": 2, "output_tokens": 9, "errors": {"HTTP 400": 1}, "cost": 2.5}
    made_line = replace(
        whole,
        models={n: m for n, m in whole.models.items() if n != "teacher"},
        loads={n: x for n, x in whole.loads.items() if n != "teacher"},
        answers=whole.answers | {"teacher": paid},
        generations={"dear": table(tmp_path, "generate", [], dear), "local": whole.generations["teacher"]},
    )
    teachers = {
        "dear": {"kind": "endpoint", "endpoint": {"url": "https://h", "model": "large"}},
        "local": {"model": "m"},
    }
    values = recipe(tmp_path).model_dump(exclude_unset=True) | {"teachers": teachers}
    made, page, _ = written(
        report(Recipe.model_validate({k: v for k, v in values.items() if k != "teacher"}), made_line)
    )
    assert made["models"]["teacher"]["accuracy"] == 0.9
    assert made["retention"] == pytest.approx(17 / 18)
    assert made["models"]["teacher"]["cost_per_1000_answers"] == pytest.approx(20)
    assert made["cost"]["teacher_endpoint"] == pytest.approx(2.9)
    assert made["speedup"] == []
    assert any("answers behind a URL" in note for note in made["notes"])
    assert not any("no size of teacher" in note for note in made["notes"])
    assert made["teachers"]["dear"] == {
        "kind": "endpoint", "source": "large", "rows": 3, "answers": 2, "truncated": None, "transient": None,
        "prompt_tokens": None, "output_tokens": 9, "cost": 2.5, "errors": {"HTTP 400": 1},
    }  # fmt: skip
    assert made["teachers"]["local"]["answers"] == 7
    assert "What each teacher answered" in page


def test_a_training_is_drawn_with_what_it_did_not_apply_and_how_fast_it_was(tmp_path: Path) -> None:
    folder = Path(report(recipe(tmp_path), line(tmp_path)))
    made = json.loads((folder / "report.json").read_text())["training"]["student"]
    assert (made["steps"], made["steps_not_applied"], made["resumed_at"]) == (5, 1, [])
    assert (made["tokens_per_s"], made["supervised_tokens_per_s"], made["mfu"]) == (900.0, 300.0, None)
    assert made["memory_bytes"] == 3e9
    page = (folder / "report.html").read_text()
    assert "1 step not applied: no finite loss and gradient (3)" in page
    assert "900 tokens per second, 300 of them learnt from (medians over steps). A worker held at most" in page
    assert page.count('class="plot" role="img"') == 3
    assert 'aria-label="Learning rate, up to 1e-5."' in page

"""plan --check on real folders: what it finds, what it prints, and what a training that does not fit is told."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import build_tiny_model

from raystill import doctor, planning, printed, rehearsal
from raystill.doctor import Finding
from raystill.training import preflight


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a tokenizer of its own, half as wide."""
    return build_tiny_model(tmp_path_factory.mktemp("models") / "other", hidden=128, vocabulary=330)


def plan(folder: Path, teacher: str, student: str | dict[str, Any], **more: Any) -> planning.Plan:
    rows = [{"prompt": f"question {i}"} for i in range(40)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    said = {
        "name": "small",
        "task": "conversation",
        "root": str(folder / "runs"),
        "data": {"train": str(folder / "rows.jsonl"), "prompt": "prompt"},
        "teacher": {"model": teacher},
        "student": {"model": student} if isinstance(student, str) else student,
        "train": {"max_length": 64},
        "evaluate": {"max_tokens": 16},
        "compute": {"train": {"micro_tokens": 128}},
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(said | more))
    made = planning.plan(str(path))
    assert not made.problems
    return made


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[preflight.Trial]]:
    """Trials that were asked for; none is run."""
    asked: list[preflight.Trial] = []

    def run(trial: preflight.Trial) -> preflight.Seen:
        asked.append(trial)
        return preflight.Seen([1 << 30] * trial.workers, fits=True)

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(preflight, "run", run)
    yield asked


def told(findings: list[Finding], word: str) -> Finding:
    (found,) = [f for f in findings if word in f.what]
    return found


def test_all_is_well(tiny_model: Path, tmp_path: Path, tried: list[preflight.Trial]) -> None:
    made = plan(tmp_path, str(tiny_model), str(tiny_model))
    findings = [*doctor.examine(made), *rehearsal.trials(made)]
    assert [f for f in findings if f.problem or f.note] == []
    (trial,) = tried
    assert (trial.student, trial.train.max_length, trial.compute.micro_tokens) == (str(tiny_model), 64, 128)
    assert "1.07 GB held of" in told(findings, "two optimizer steps").what
    assert printed.finding(findings[0]).startswith("ok    ")


def test_a_spoiled_student_is_told_and_ends_with_what_to_do(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "student")
    config = json.loads((tmp_path / "student/config.json").read_text())
    (tmp_path / "student/config.json").write_text(
        json.dumps(config | {"vocab_size": 300, "max_position_embeddings": 32})
    )
    findings = list(doctor.examine(plan(tmp_path, str(tiny_model), str(tmp_path / "student"))))
    spoiled = [f for f in findings if f.what.startswith("student") and f.what.endswith("go together")]
    assert all(f.problem and not f.note for f in spoiled)
    assert [f.problem is not None and "resize_token_embeddings" in f.problem for f in spoiled] == [True, False]
    assert "train: {max_length: 32}" in printed.finding(spoiled[1])
    assert printed.finding(spoiled[1]).startswith("wrong ")


def test_the_pair_of_two_folders(tiny_model: Path, other_model: Path, tmp_path: Path) -> None:
    (twins,) = doctor.pairs(plan(tmp_path, str(tiny_model), str(tiny_model)))
    assert {t.kind: t.possible for t in twins.transfers}["soft targets"] == "yes"
    (apart,) = doctor.pairs(plan(tmp_path, str(other_model), str(tiny_model)))
    assert {t.kind: t.possible for t in apart.transfers}["soft targets by bytes"] == "yes"
    rows = {r.what: (r.teacher, r.student) for r in apart.rows}
    assert rows["width"] == ("128", "64") and rows["layers"] == ("2", "2")


def test_a_student_cut_from_its_teacher_has_its_layers(tiny_model: Path, tmp_path: Path) -> None:
    made = plan(tmp_path, str(tiny_model), {"init": {"from": "teacher", "layers": [1]}})
    (pair,) = doctor.pairs(made)
    assert {r.what: (r.teacher, r.student) for r in pair.rows}["layers"] == ("2", "1")
    assert {t.kind: t.possible for t in pair.transfers}["hidden layers"] == "yes"
    assert any(line.startswith("student: ") and "1 layers of 64" in line for line in made.learners)


def test_known_students_need_not_be_here(tiny_model: Path, tmp_path: Path) -> None:
    learners = plan(tmp_path, str(tiny_model), "microsoft/Phi-4-mini-instruct").learners
    assert learners[0] == (
        "student: 3.84B parameters, 32 layers of 3,072, 24 heads (8 of keys), vocabulary 200,064, context 131,072, licence mit"
    )
    assert "training takes each of" in learners[1]


def test_a_training_larger_than_the_machine_is_not_even_tried(
    tiny_model: Path, tmp_path: Path, tried: list[preflight.Trial]
) -> None:
    made = plan(tmp_path, str(tiny_model), str(tiny_model), compute={"train": {"micro_tokens": 10**9}})
    assert any(
        "that does not fit; " in line and "lower compute.train.micro_tokens (now 1000000000)" in line
        for line in made.learners
    )
    found = told(list(rehearsal.trials(made)), "two optimizer steps")
    assert found.problem is not None and "lower compute.train.micro_tokens" in found.problem
    assert tried == []


@pytest.mark.parametrize("fits", [True, False])
def test_a_trial_that_held_too_much_says_what_to_lower(
    tiny_model: Path, tmp_path: Path, tried: list[preflight.Trial], monkeypatch: pytest.MonkeyPatch, fits: bool
) -> None:
    held = psutil.virtual_memory().total * 2 if fits else 1
    monkeypatch.setattr(preflight, "run", lambda trial: preflight.Seen([held], fits))
    found = told(list(rehearsal.trials(plan(tmp_path, str(tiny_model), str(tiny_model)))), "two optimizer steps")
    assert found.problem is not None and "out of memory; " in found.problem and "compute.train" in found.problem


def test_a_student_is_tried_with_the_teacher_that_sits_beside_it(
    tiny_model: Path, tmp_path: Path, tried: list[preflight.Trial]
) -> None:
    live = {"train": {"max_length": 64, "teacher": "live", "loss": {"kind": "forward_kl"}}}
    made = plan(tmp_path, str(tiny_model), str(tiny_model), **live)
    found = told(list(rehearsal.trials(made)), "two optimizer steps")
    assert found.problem is None and "held of" in found.what
    assert [trial.teacher for trial in tried] == [str(tiny_model)]


def test_a_student_that_is_still_to_be_made_is_not_tried(
    tiny_model: Path, tmp_path: Path, tried: list[preflight.Trial]
) -> None:
    made = plan(tmp_path, str(tiny_model), {"init": {"from": "teacher", "layers": [0]}})
    found = told(list(rehearsal.trials(made)), "two optimizer steps")
    assert found.problem is None and found.note is not None and "initialize" in found.note
    assert tried == []


@pytest.mark.parametrize(("targets", "says"), [("[q_proj]", None), ("[qkv_proj]", "no linear layer qkv_proj")])
def test_lora_targets_are_held_against_the_students_layers(
    tmp_path: Path, tiny_model: Path, targets: str, says: str | None
) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Hello", "reference": "Hi"}\n')
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"name: small\ntask: conversation\nroot: {tmp_path / 'runs'}\nteacher: {{kind: reference}}\n"
        f"data: {{train: {tmp_path / 'rows.jsonl'}, reference: reference}}\n"
        f"student: {{model: {tiny_model}}}\ntrain: {{lora: {{targets: {targets}}}}}\n"
        "evaluate: {max_tokens: 64}\n"
    )
    made = planning.plan(str(path))
    assert not made.problems
    (found,) = [f for f in doctor.examine(made) if "LoRA" in f.what]
    assert (found.problem is None) if says is None else (says in (found.problem or ""))

"""Early stopping: the best validation's student is exported, by loss and by the student's own answers."""

from pathlib import Path

import pytest
import torch
from test_train import CONFIG, Told, cluster, context, curve, examples, validations  # noqa: F401 - `cluster` is a fixture

from raystill import artifacts, chat
from raystill.artifacts import Checkpoint, Manifest, Table
from raystill.errors import DataError
from raystill.recipe import EarlyStopping, Task
from raystill.records import Example, Message, Prompt
from raystill.stages import train

TASK = Task(kind="conversation")
LONG = CONFIG.model_copy(update={"epochs": 12, "validations": 12, "schedule": "constant"})


def prompts(folder: Path, table: Table, references: bool = True) -> Table:
    """The prompts of these examples, with what the examples answer as references."""
    rows = [
        Prompt(e.id, None, e.messages[:-1], None, "conversation", "f", e.split, e.messages[-1].content, "{}")
        for e in table.rows(Example)
    ]
    rows = rows if references else [Prompt(**vars(r) | {"reference": None}) for r in rows]
    files = [
        artifacts.write_part(str(folder), s, Prompt, [r for r in rows if r.split == s]) for s in ("train", "validation")
    ]
    return Table(str(folder), "2" * 12, Manifest("prompts", 1, "prepare", 1, "2" * 12, {}, {}, files))


def loss_of(folder: str, table: Table) -> float:
    """The mean validation loss of a model folder in plain transformers."""
    from transformers import AutoModelForCausalLM

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), chat.load_tokenizer(folder)
    total = tokens = 0.0
    for example in table.rows(Example, "validation"):
        encoded = chat.encode(tokenizer, example.messages, example.loss_turns)
        ids, mask = torch.tensor(encoded.input_ids), torch.tensor(encoded.loss_mask)[1:]
        with torch.no_grad():
            logits = model(ids[None]).logits[0, :-1]
        total += float(torch.nn.functional.cross_entropy(logits[mask], ids[1:][mask], reduction="sum"))
        tokens += int(mask.sum())
    return total / tokens


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_the_best_student_is_exported_when_the_last_is_worse(tiny_model: Path, tmp_path: Path) -> None:
    # The validation rows are answered in other words: what is learnt by heart makes them worse.
    learnt = examples(tmp_path / "learnt", validation=0)
    asked = list(examples(tmp_path / "asked", 0, 8).rows(Example))
    other = [Message("assistant", f"Nobody knows {e.id}.") for e in asked]
    rows = [Example(**vars(e) | {"messages": [e.messages[0], m]}) for e, m in zip(asked, other, strict=True)]
    assert learnt.manifest
    files = [*learnt.manifest.files, artifacts.write_part(learnt.url, "validation", Example, rows)]
    table = Table(learnt.url, "0" * 12, Manifest("examples", 1, "curate", 1, "0" * 12, {}, {}, files))
    told = Told()
    where = context(tmp_path, told, workers=2, zero=3, micro_tokens=64)
    config = LONG.model_copy(update={"early_stopping": EarlyStopping(patience=2)})
    outcome = train.train(config, None, table, None, Checkpoint(str(tiny_model), "m"), [], where)
    rows_of = curve(outcome, where)
    seen = validations(rows_of)
    best = min(seen, key=lambda step: seen[step])
    assert list(seen).index(best) == len(seen) - 3  # two more, and none was better
    assert outcome.counts["steps"] == max(seen) < 72
    assert (outcome.facts["step"], outcome.facts["ended"]) == (best, "no better validation_loss in 2 validations")
    assert outcome.facts["validation_loss"] == seen[best] < seen[max(seen)] - 0.01
    assert loss_of(f"{where.url}/{outcome.facts['folder']}", table) == pytest.approx(seen[best], rel=1e-4)
    assert any(f"the student of step {best} is exported" in line for line in told.lines)
    assert not list((Path(where.url) / "work").rglob("*.pt"))


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_student_may_be_chosen_by_its_own_answers(tiny_model: Path, tmp_path: Path) -> None:
    table = examples(tmp_path / "examples", validation=5)
    early = EarlyStopping(metric="accuracy", patience=None, rows=3, max_tokens=12)
    # Answers that all are the same are soon learnt.
    same = [
        Example(**vars(e) | {"messages": [e.messages[0], Message("assistant", "It is here.")]})
        for e in table.rows(Example)
    ]
    files = [
        artifacts.write_part(str(tmp_path / "same"), s, Example, [e for e in same if e.split == s])
        for s in ("train", "validation")
    ]
    assert table.manifest
    table = Table(str(tmp_path / "same"), "3" * 12, Manifest("examples", 1, "curate", 1, "3" * 12, {}, {}, files))
    config = LONG.model_copy(update={"epochs": 4, "validations": 8, "early_stopping": early})
    where = context(tmp_path, workers=2, zero=3, micro_tokens=64)
    start = Checkpoint(str(tiny_model), "m")
    outcome = train.train(config, None, table, None, start, [], where, TASK, prompts(tmp_path / "prompts", table))
    seen = {row["step"]: row["accuracy"] for row in curve(outcome, where) if row["accuracy"] is not None}
    assert list(seen) == list(validations(curve(outcome, where)))
    assert (seen[3], seen[24]) == (0, 1)
    assert outcome.facts["step"] == next(step for step in seen if seen[step] == 1) < 24
    assert (outcome.facts["ended"], outcome.counts["steps"]) == ("all steps done", 24)


def test_without_validation_rows_or_references_it_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    table, start = examples(tmp_path / "examples", 4, 0), Checkpoint(str(tiny_model), "m")
    by_loss = CONFIG.model_copy(update={"early_stopping": EarlyStopping()})
    with pytest.raises(DataError, match=r"curate left none; raise data\.split\.validation"):
        train.train(by_loss, None, table, None, start, [], context(tmp_path))
    table = examples(tmp_path / "both", 4, 2)
    by_answers = CONFIG.model_copy(update={"early_stopping": EarlyStopping(metric="rouge_l")})
    asked = prompts(tmp_path / "prompts", table, references=False)
    with pytest.raises(DataError, match=r"no validation row can be judged by rouge_l.*data\.reference"):
        train.train(by_answers, None, table, None, start, [], context(tmp_path), TASK, asked)

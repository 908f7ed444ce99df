"""A student that learns from what a teacher thinks: real targets of a real teacher through the whole train stage."""

import asyncio
from pathlib import Path

import pytest
from conftest import build_tiny_model
from test_train import CONFIG, cluster, context, curve, examples  # noqa: F401 - `cluster` is a fixture

from raystill import artifacts, chat, recipe, storage
from raystill.artifacts import Checkpoint, Manifest, Outcome, Table
from raystill.context import Context
from raystill.errors import RecipeError
from raystill.records import Example, Ids, Message, Targets
from raystill.stages import train
from raystill.teachers import tokens, units
from raystill.teachers.scorer import Scorer


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("models") / "teacher", hidden=128)


def scored(
    folder: Path, teacher: Path, table: Table, score: recipe.Score, tokenizers: dict[str, str] | None = None
) -> Table:
    """What the score stage makes of these examples, without Ray."""
    block = recipe.Teacher(kind="reference").model_dump()
    asked = (score.model_dump(), block, Checkpoint(str(teacher), "t"), tokenizers or {})
    scorer = Scorer(*asked)
    of = units.of(table, {}, str(folder))
    files = [asyncio.run(scorer.run(unit)).file for unit in of]
    spoken = tokens.of(chat.load_tokenizer(str(teacher))).dump()
    storage.put_if_absent(storage.join(str(folder), tokens.FILE), spoken)
    files.append(artifacts.describe(tokens.FILE, spoken))
    facts = score.identity() | {"tokenizer": chat.tokenizer_fingerprint(str(teacher))}
    facts |= {"parts": {unit.source.rpartition("/")[2]: unit.name for unit in of}}
    inputs = {"examples": table.fingerprint}
    return artifacts.commit(
        Table, str(folder), Manifest("targets", Targets.SCHEMA, "score", 1, "t", {}, inputs, files, facts=facts)
    )


def run(model: Path, where: Context, table: Table, targets: Table, loss: recipe.Loss) -> Outcome:
    config = CONFIG.model_copy(update={"loss": loss})
    return train.train(config, None, table, targets, Checkpoint(str(model), "m"), [], where)


def test_a_loss_that_draws_cannot_give_is_refused(tiny_model: Path, teacher: Path, tmp_path: Path) -> None:
    table = examples(tmp_path / "examples", 2, 0)
    targets = scored(tmp_path / "targets", teacher, table, recipe.Score(support="sampled"))
    with pytest.raises(RecipeError, match=r"train\.loss\.kind: reverse_kl needs .* score: \{support: top_k\}"):
        run(tiny_model, context(tmp_path), table, targets, recipe.Loss(kind="reverse_kl"))
    with pytest.raises(RecipeError, match="there are none"):
        train.train(
            CONFIG.model_copy(update={"loss": recipe.Loss(kind="reverse_kl")}),
            None, table, None, Checkpoint(str(tiny_model), "m"), [], context(tmp_path),
        )  # fmt: skip


def test_of_its_own_text_a_student_learns_what_the_teacher_scored(
    tiny_model: Path, teacher: Path, tmp_path: Path
) -> None:
    def example(i: int, who: str, ids: list[int]) -> Example:
        said = [Message("user", f"Where is order {i}?"), Message("assistant", "It is here.")]
        return Example(f"r{i}", who, 0, "train", said, None, [1], Ids(ids))

    # Answers that were cut off: none has a stop token.
    rows = [example(0, "student", [20, 21, 22]), example(1, "student", [23, 24]), example(2, "teacher", [25])]
    long = example(3, "student", [30] * 600)  # longer than the teacher's context: it is not scored
    mark = chat.tokenizer_fingerprint(str(tiny_model))
    facts = {"tokenizers": {"student": mark, "teacher": mark}}
    part = artifacts.write_part(str(tmp_path / "e"), "train", Example, [*rows, long])
    table = artifacts.commit(
        Table, str(tmp_path / "e"), Manifest("examples", 1, "curate", 1, "e", {}, {}, [part], facts=facts)
    )
    targets = scored(tmp_path / "targets", teacher, table, recipe.Score(k=5), facts["tokenizers"])
    config = CONFIG.model_copy(update={"max_length": 1000})
    counts = {}
    for own in (None, "student"):
        arguments = (config, None, table, targets, None, Checkpoint(str(tiny_model), "m"), str(tmp_path / f"{own}"))
        counts[own] = train._tokenise(*arguments, own, None, tmp_path)
    # Three stop tokens and the long answer with its own are learnt as text, unless the student itself wrote them.
    assert (counts[None].supervised, counts[None].with_targets) == (3 + 2 + 1 + 3 + 601, 3 + 2 + 1)
    assert (counts["student"].supervised, counts["student"].with_targets) == (3 + 2 + 1 + 1, 3 + 2 + 1)
    assert counts["student"].rejected == {"not scored": 1}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("score", "loss"),
    [
        (recipe.Score(k=20), recipe.Loss(kind="forward_kl", alpha=0.5)),
        (recipe.Score(support="sampled", temperature=2), recipe.Loss(kind="forward_kl")),
    ],
)
def test_a_student_comes_closer_to_its_teacher(
    cluster: None,  # noqa: F811
    tiny_model: Path,
    teacher: Path,
    tmp_path: Path,
    score: recipe.Score,
    loss: recipe.Loss,
) -> None:
    table = examples(tmp_path / "examples")
    targets = scored(tmp_path / "targets", teacher, table, score)
    where = context(tmp_path, workers=2, zero=3, micro_tokens=64)
    outcome = run(tiny_model, where, table, targets, loss)
    assert outcome.counts["with_targets"] == outcome.counts["supervised"] > 0
    rows = curve(outcome, where)
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["validation_loss"] < rows[0]["loss"]
    assert outcome.facts["logits_difference"] < 1e-4
    assert not (Path(where.url) / "work").exists() or not list((Path(where.url) / "work").rglob("soft.bin"))


@pytest.mark.slow
@pytest.mark.parametrize("support", ["top_k", "sampled"])
def test_a_student_learns_from_a_teacher_with_another_tokenizer(
    cluster: None,  # noqa: F811
    tiny_model: Path,
    tmp_path: Path,
    support: str,
) -> None:
    other = build_tiny_model(tmp_path / "other", vocabulary=300)
    table = examples(tmp_path / "examples")
    targets = scored(tmp_path / "targets", other, table, recipe.Score(support=support))  # type: ignore[arg-type]
    where = context(tmp_path, workers=2, zero=2, micro_tokens=64)
    outcome = run(tiny_model, where, table, targets, recipe.Loss(kind="forward_kl"))
    assert 0.3 < outcome.counts["with_targets"] / outcome.counts["supervised"] < 1
    assert 0.5 < outcome.counts["carried_mass"] < 1
    rows = curve(outcome, where)
    assert rows[-1]["validation_loss"] < rows[0]["loss"]

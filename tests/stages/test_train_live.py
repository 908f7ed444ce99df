"""A student beside its teacher through the whole train stage: two views, layers of other widths, sharded and resumed."""

from pathlib import Path

import pytest
from conftest import build_tiny_model
from safetensors import safe_open
from test_train import CONFIG, Told, cluster, context, curve, examples, losses  # noqa: F401 - `cluster` is a fixture

from raystill import recipe
from raystill.artifacts import Checkpoint, Outcome, Table
from raystill.context import Context
from raystill.errors import DataError, Interrupted, RecipeError
from raystill.stages import train

LOSS = {"kind": "forward_kl", "temperature": 2, "layers": {"weight": 0.5}, "attention": {"weight": 0.5}}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("models") / "teacher", hidden=128, layers=3)


def run(model: Path, teacher: Path, where: Context, table: Table, **changes: object) -> Outcome:
    config = recipe.Train.model_validate(CONFIG.model_dump() | {"teacher": "live", "loss": LOSS} | changes)
    shown = recipe.Teacher(model=str(teacher), system="You know every order by heart.")
    live = train.Live(shown, Checkpoint(str(teacher), "t"))
    return train.train(config, None, table, None, Checkpoint(str(model), "m"), [], where, beside=live)


def test_what_cannot_be_had_of_a_live_teacher_is_refused(tiny_model: Path, teacher: Path, tmp_path: Path) -> None:
    table = examples(tmp_path / "examples", 2, 0)
    with pytest.raises(RecipeError, match=r"train\.loss\.layers\.map names layers \[\[0, 3\]\]"):
        run(tiny_model, teacher, context(tmp_path), table, loss={"layers": {"map": [[0, 3]]}})
    with pytest.raises(RecipeError, match=r"train\.loss\.attention: .*packing is off"):
        run(tiny_model, teacher, context(tmp_path), table, packing=False)
    long = recipe.Teacher(model=str(teacher), system="word " * 600)
    live = train.Live(long, Checkpoint(str(teacher), "t"))
    config = CONFIG.model_copy(update={"teacher": "live", "loss": recipe.Loss(kind="forward_kl")})
    with pytest.raises(DataError, match=r"no example fits its context; shorten teacher\.system"):
        train.train(config, None, table, None, Checkpoint(str(tiny_model), "m"), [], context(tmp_path), beside=live)


@pytest.mark.slow
def test_a_student_learns_beside_its_teacher_and_resumes_with_its_projections(
    cluster: None,  # noqa: F811
    tiny_model: Path,
    teacher: Path,
    tmp_path: Path,
) -> None:
    table = examples(tmp_path / "examples")
    whole = context(tmp_path / "whole", workers=2, zero=3, micro_tokens=64)
    outcome = run(tiny_model, teacher, whole, table)
    assert outcome.counts["with_targets"] == outcome.counts["supervised"] > 0
    rows = curve(outcome, whole)
    assert rows[-1]["validation_loss"] < rows[0]["loss"]
    assert outcome.facts["logits_difference"] < 1e-4
    (weights,) = (Path(whole.url) / f.path for f in outcome.files if f.path.endswith(".safetensors"))
    with safe_open(weights, "pt") as file:
        assert not [name for name in file.keys() if "projection" in name or "teacher" in name]  # noqa: SIM118
    told = Told()
    where = context(tmp_path / "stopped", told, workers=2, zero=3, micro_tokens=64)
    told.after[4] = where.stopping.set
    with pytest.raises(Interrupted):
        run(tiny_model, teacher, where, table)
    where.stopping.clear()
    again = run(tiny_model, teacher, where, table)
    assert any("goes on after step" in line for line in told.lines)
    assert losses(again, where) == pytest.approx(losses(outcome, whole), rel=1e-5)

import gzip
from pathlib import Path

import pytest

from raystill import costs, planning, recipe_file
from raystill.launch.mistakes import mistakes

JOBS = Path(__file__).parents[2] / "jobs"
RECIPES = sorted(JOBS.glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_job_is_a_valid_recipe_named_like_its_file_and_has_its_line_in_the_table(path: Path) -> None:
    assert recipe_file.load(str(path)).recipe.name == path.stem
    assert f"| [{path.stem}]({path.name}) |" in (JOBS / "README.md").read_text()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_trained_teacher_has_not_seen_the_rows_it_is_tested_on(path: Path) -> None:
    recipe = recipe_file.load(str(path)).recipe
    if recipe.teacher.recipe:
        teacher = recipe_file.load(str(JOBS.parent / recipe.teacher.recipe)).recipe
        assert teacher.data.model_copy(update={"limit": recipe.data.limit}) == recipe.data
        assert teacher.student and teacher.student.system == recipe.teacher.system


ON_GPUS = {
    "support-deepseek-phi4": None,
    "math-llama405b-llama8b": "h200",
    "summarization-qwen3": "h100",
    "api-teacher": None,
    "support-cascade": None,
}
"""Jobs that this machine cannot run, with the compute file that goes with them."""


@pytest.mark.parametrize(("job", "compute"), ON_GPUS.items(), ids=str)
def test_a_job_on_gpus_is_planned_with_what_it_takes(
    job: str, compute: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    monkeypatch.chdir(tmp_path)
    for folder, row in (("tickets", '{"text": "Where is it?", "label": "delivery"}'), ("support", "")):
        (tmp_path / "data" / folder).mkdir(parents=True)
        (tmp_path / "data" / folder / "a.jsonl").write_text(row)
    turns = '{"customer": 1, "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'
    (tmp_path / "data/support/a.jsonl.gz").write_bytes(gzip.compress(turns.encode()))
    file = str(JOBS / "compute" / f"{compute}.yaml") if compute else None
    made = planning.plan(str(JOBS / f"{job}.yaml"), file)
    assert made.problems == []
    takes = costs.estimate(made)
    assert takes is not None
    stages = [cost.stage.split()[0] for cost in takes.costs]
    assert stages[0] == "generate" and stages[-2:] == ["train", "evaluate"]
    if file:
        assert mistakes(recipe_file.load(str(JOBS / f"{job}.yaml"), file)) == []

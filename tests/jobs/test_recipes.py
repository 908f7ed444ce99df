from pathlib import Path

import pytest

from raystill import recipe_file

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

"""threshold: from which probability on a student's answers are good enough, measured on validation rows.

The student is asked them with the probabilities of its tokens, the teacher without; both are artifacts as all answers are.
"""

import contextlib
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from raystill import pipeline, tasks
from raystill.artifacts import Checkpoint, Table
from raystill.context import Progress
from raystill.errors import DataError, RecipeError
from raystill.metrics import mean
from raystill.metrics.bootstrap import interval
from raystill.metrics.cascade import Case, Cut, cuts, least
from raystill.metrics.compare import ACCURACY, TEACHER
from raystill.pipeline import Line
from raystill.recipe import Recipe
from raystill.records import Answer, Prompt, Sure
from raystill.session import ray_session
from raystill.stages import evaluate, serve
from raystill.steps import Runner, Step, on_demand


@dataclass(frozen=True)
class Threshold:
    """The cut for a wanted accuracy, or None; and what student and teacher reach alone on these rows."""

    wanted: float
    cut: Cut | None
    cases: Sequence[Case]
    resamples: int

    def text(self) -> str:
        """For people."""
        student, teacher = (mean([getattr(case, who) for case in self.cases]).point() for who in ("student", "teacher"))
        alone = f"the student alone reaches {student:.3f}, the teacher alone {teacher:.3f} ({len(self.cases)} validation rows)"
        if self.cut is None:
            best = max(cut.accuracy.point() for cut in cuts(self.cases))
            return f"{alone}\nno threshold reaches accuracy {self.wanted:g}, the best one {best:.3f}"
        accuracy, within = self.cut.accuracy.point(), interval(self.cut.accuracy, self.resamples)
        told = f"{alone}\naccuracy {accuracy:.3f}" + (f" ({within.low:.3f} to {within.high:.3f})" if within else "")
        way = f"below: {self.cut.below:.4f}" if self.cut.below else "check: true"
        return f"{told} when {self.cut.sent:.1%} of the rows go to the teacher; write: serve: {{fallback: {{{way}}}}}"


def threshold(
    recipe: Recipe, models: Mapping[str, Checkpoint], wanted: float, progress: Progress, stopping: threading.Event
) -> Threshold:
    """Ask student and teacher of a finished run, and choose. Raises RecipeError or DataError where nothing can be measured."""
    student = recipe.fallback_student()
    if student not in models or TEACHER not in models:
        raise RecipeError(
            "a threshold needs a hosted teacher and one student; name it: serve: {fallback: {student: NAME}}, and make both: "
            "raystill run RECIPE"
        )
    asked = recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"split": "validation"})})
    with ray_session(recipe.compute) as ensure_ray, tempfile.TemporaryDirectory(prefix="raystill-") as scratch:
        do = Runner(recipe, progress, stopping, ensure_ray, Path(scratch))
        made = Line(do(pipeline.prepared(recipe, do)), {}, Table("", ""), dict(models))
        with _hosted(asked, student, made) as endpoint:
            sure = do(_surely(asked, student, made, endpoint))
        with _hosted(asked, TEACHER, made) as endpoint:
            taught = do(pipeline.answered(asked, TEACHER, made, endpoint))
    judged = cases(recipe, made.prompts, list(sure.rows(Sure)), list(taught.rows(Answer)))
    return Threshold(wanted, least(cuts(judged), wanted), judged, recipe.evaluate.resamples)


def cases(recipe: Recipe, prompts: Table, sure: Sequence[Sure], taught: Sequence[Answer]) -> list[Case]:
    """The rows that both answered, judged by the task. Raises DataError where no row can tell right from wrong."""
    task = tasks.load(recipe.task, set(prompts.column("reference", "train", "validation")) - {None})
    asked = {prompt.id: prompt for prompt in prompts.rows(Prompt, "validation")}
    by_teacher = {answer.id: answer.text for answer in taught if not answer.error}
    found = []
    for row in sure:
        prompt, text = asked[row.id], by_teacher.get(row.id)
        if text is None or ACCURACY not in task.score(prompt, ""):
            continue
        passes = task.check(prompt, row.text) is None
        right = [task.score(prompt, said)[ACCURACY] for said in (row.text, text)]
        found.append(Case(row.probability, passes, *right))
    if not found:
        raise DataError(
            f"no threshold can be measured: task {recipe.task.kind} can tell of no validation row whether an answer is right; "
            "name the references' column as data.reference, or rely on the check alone: serve: {fallback: {check: true}}"
        )
    return found


def _surely(recipe: Recipe, student: str, made: Line, endpoint: pipeline.Serving) -> Step[Table]:
    step = pipeline.answered(recipe, student, made, endpoint)
    view = pipeline.view_of(recipe, student)
    return replace(
        step,
        label=f"answer {student}, with probabilities",
        stage="sure",
        make=lambda context: evaluate.sure(recipe.evaluate, student, *view, endpoint(context), made.prompts, context),
    )


def _hosted(recipe: Recipe, name: str, made: Line) -> contextlib.AbstractContextManager[pipeline.Serving]:
    alone = recipe.serve.model_copy(update={"replicas": 1, "adapters": False})
    own = {name: pipeline.compared_as(recipe, name)}
    return on_demand(lambda context: serve.serve({name: made.models[name]}, alone, context, own=own, port=0))

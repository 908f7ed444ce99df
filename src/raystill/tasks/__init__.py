"""What a right answer is. A task is a class of one file here, the user's own in YAML (kind `own`), or as `module:attr`.

It is made with the references of the train and validation rows (empty when the data has none) and judges one answer at
a time. It asks no model and knows no file; hints about one row come from the data's own columns (`prompt.columns`).

A kind here may also say how models are asked: `asks`, what to do, and `form`, how to answer, which become the system
prompts of teacher and student where the recipe gives none; and in `takes` which references it can read.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

from raystill import plugins, reading, recipe
from raystill.metrics import Sums
from raystill.records import Prompt

KINDS = {
    "classification": "raystill.tasks.classification:Classification",
    "conversation": "raystill.tasks.conversation:Conversation",
    "nli": "raystill.tasks.nli:Nli",
    "qa": "raystill.tasks.qa:Qa",
    "math": "raystill.tasks.math:Math",
    "summarization": "raystill.tasks.summarization:Summarization",
    "translation": "raystill.tasks.translation:Translation",
    "moderation": "raystill.tasks.moderation:Moderation",
    "own": "raystill.tasks.own:Own",
}
ALONE = "Give the answer alone."
STEPS = "Think step by step. Then write 'Answer:' and the answer alone on a last line."
DENSER = (
    "Write five summaries, one after another, all about equally long. Each one names one to three more facts of the text "
    "than the one before, made to fit by saying the rest in fewer words. Then write 'Answer:' and the last summary again."
)


class Task(Protocol):
    """What curate and the report ask of a task."""

    def __init__(self, references: Collection[str], task: recipe.Task) -> None: ...

    def parse(self, text: str) -> str | None:
        """What the answer says: a label, or the text, whitespace normalised; None when it is nothing the task knows.

        Two models agree on a row when this is equal.
        """

    def wanted(self, reference: str) -> str | None:
        """What a reference says, as `parse` would return it; None when the task cannot read it."""

    def check(self, prompt: Prompt, text: str) -> str | None:
        """Why nobody should learn from this answer, in words that hold no content; None when it may be kept."""

    def score(self, prompt: Prompt, text: str) -> dict[str, float]:
        """The task's own values for this answer, "accuracy" as 0 or 1; empty when the row cannot tell.

        Which keys there are depends on the prompt alone, never on the answer. The report shows each key's mean.
        """

    def measure(self, texts: Sequence[str], references: Sequence[str]) -> dict[str, Sums]:
        """Further metrics of a model's answers against the references of the rows that have one.

        Without an "accuracy" in `score`, the first one decides what a student keeps of its teacher.
        """


class Labelled:
    """What tasks have in common whose answer is one of their labels. References are labels by name, or by number from 0."""

    def __init__(self, task: recipe.Task, labels: list[str]) -> None:
        self.names = task.labels or labels
        self.labels = reading.Labels(self.names)
        named = ", ".join(self.names)
        self.takes = f"{named} or their numbers from 0; for others: task: {{kind: {task.kind}, labels: […]}}"

    def parse(self, text: str) -> str | None:
        """The one label that the answer names, or None."""
        return self.labels.read(reading.answer(text))

    def wanted(self, reference: str) -> str | None:
        """The label, by name or number."""
        return reading.reference_label(self.names, reference)

    def check(self, prompt: Prompt, text: str) -> str | None:
        """Answers that name no label, or more than one, are not kept."""
        return "names no single label" if self.parse(text) is None else None

    def score(self, prompt: Prompt, text: str) -> dict[str, float]:
        """accuracy: 1 when the answer names the reference's label."""
        wanted = self.wanted(prompt.reference or "")
        return {} if wanted is None else {"accuracy": float(self.parse(text) == wanted)}


def load(task: recipe.Task, references: Collection[str]) -> Task:
    """The task of a recipe. Raises RecipeError when it cannot be had."""
    made: Task = plugins.load(task.kind, KINDS, "task")(references, task)
    return made


READ = frozenset({"classification", "nli", "moderation", "math"})
"""Kinds whose answers are read down to a label or a value."""


def reads(task: recipe.Task) -> bool:
    """Whether two answers can be compared by what `parse` reads out of them; else they are free text."""
    return task.kind in READ or task.parse is not None


COUNTED = {"refusals"}
"""Values of `score` of which neither more nor less is better."""


def metrics_of(judge: Task, prompts: Sequence[Prompt]) -> list[str]:
    """Metrics that these rows have and a student can be chosen by: the task's own, then those against references."""
    own = [judge.score(prompt, "") for prompt in prompts]
    referenced = [prompt.reference for prompt in prompts if prompt.reference is not None]
    against = judge.measure([""] * len(referenced), referenced) if len(referenced) == len(prompts) else {}
    everywhere = [name for name in own[0] if all(name in row for row in own)] if own else []
    return [name for name in (*everywhere, *against) if name not in COUNTED]


def reasons(task: recipe.Task) -> bool:
    """Whether only what follows the last 'Answer:' of a teacher's text is its answer."""
    return task.chain_of_thought or task.chain_of_density


def keeps(task: recipe.Task, judge: Task) -> Callable[[Prompt, str], str | None]:
    """The task's check, which also refuses reasoning that no marked answer follows."""

    def check(prompt: Prompt, text: str) -> str | None:
        if reasons(task) and not reading.marked(text):
            return "no 'Answer:' after its reasoning"
        return judge.check(prompt, text)

    return check


def with_prompts(whole: recipe.Recipe) -> recipe.Recipe:
    """The recipe with the task's own system prompts where teachers and students have none of their own."""
    task = whole.task
    if task.kind not in KINDS:
        return whole
    kind = plugins.load(task.kind, KINDS, "task")
    teacher = _told(kind, task, aloud=reasons(task))
    student = _told(kind, task, aloud=reasons(task) and whole.curate.reasoning)
    changes: dict[str, Any] = {
        "teacher": _with_system(whole.teacher, teacher),
        "teachers": {name: _with_system(one, teacher) for name, one in whole.teachers.items()},
        "student": whole.student and _with_system(whole.student, student),
        "students": {name: _with_system(one, student) for name, one in whole.students.items()},
    }
    complete: recipe.Recipe = _changed(whole, changes)
    return complete


def _told(kind: Any, task: recipe.Task, *, aloud: bool) -> str | None:
    asks: str | None = task.system or getattr(kind, "asks", lambda task: None)(task)
    if asks is None:
        return None
    form = "" if task.system else kind.form
    how = (STEPS if task.chain_of_thought else DENSER) if aloud else ALONE if reasons(task) else form
    return f"{asks} {how}".strip()


def _with_system(block: Any, system: str | None) -> Any:
    return block if system is None or "system" in block.model_fields_set else _changed(block, {"system": system})


def _changed(block: Any, changes: dict[str, Any]) -> Any:
    """A copy that tells as before which keys the user wrote."""
    copy = block.model_copy(update=changes)
    copy.model_fields_set.intersection_update(block.model_fields_set)
    return copy

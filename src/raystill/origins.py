"""What a recipe's models start from: the folder or hub id whose tokenizer they have, and their own shape."""

from dataclasses import dataclass, replace

from raystill import models, recipe_file, shapes
from raystill.recipe import Cut, Random, Student, Teacher
from raystill.shapes import Shape


@dataclass(frozen=True)
class Origin:
    """Where a model comes from; None is what a teacher without weights lacks, or what is not at hand."""

    model: str | None
    shape: Shape | None


def of_teacher(teacher: Teacher) -> Origin:
    """A teacher's: its own model, or what another recipe makes of its student."""
    if teacher.recipe is None:
        return Origin(teacher.model, shapes.of(teacher.model) if teacher.model else None)
    other = recipe_file.load(teacher.recipe).recipe
    return of_student(other.student, other.teacher) if other.student else Origin(None, None)


def of_student(student: Student, teacher: Teacher) -> Origin:
    """A student's: its model, some layers of one, or one with random weights in a changed shape."""
    init = student.init
    name = init.from_ if isinstance(init, Cut) else student.model
    base = of_teacher(teacher) if name == "teacher" else Origin(name, shapes.of(name) if name else None)
    if isinstance(init, Cut) and base.shape:
        return Origin(base.model, replace(base.shape, layers=len(init.layers)))
    if isinstance(init, Random) and base.model:
        config = models.config(base.model)
        return Origin(base.model, shapes.parse(config | init.random) if config else None)
    return base

"""plan --check: two optimizer steps at the longest batch, so that memory is short before a run and not in it."""

from collections.abc import Iterator

import psutil

from raystill import memory, models, origins
from raystill.doctor import Finding
from raystill.errors import RaystillError
from raystill.planning import Plan, held
from raystill.recipe import Recipe, Train
from raystill.training import footprint, preflight
from raystill.training.footprint import Footprint, Room

TRIED_ON_CPU = 10**12
"""Parameters times tokens of a trial without a GPU: 500M at 2,048 tokens are about three minutes on two cores."""


def trials(plan: Plan) -> Iterator[Finding]:
    """Two optimizer steps of each student at its longest batch, where they can be made here in minutes."""
    recipe = plan.recipe
    room = footprint.room(recipe.compute.train) if recipe else None
    if recipe is None or room is None:
        return
    for name, student in recipe.all_students().items():
        train, compute = recipe.train_for(student), recipe.compute.train
        what = f"{name}: two optimizer steps at the longest batch, {compute.micro_tokens:,} tokens a worker"
        shape, takes = origins.of_student(student, recipe.teacher).shape, held(recipe, student, room.workers, room.gpu)
        free = room.each if room.gpu else psutil.virtual_memory().available // room.workers
        if takes and takes.total > free:
            said = f"training would take each of {room.workers} workers about {takes}, and {free / memory.GB:.1f} GB are free"
            yield Finding(what, f"{said}; {footprint.advice(takes, compute)}")
        elif student.init != "pretrained" or student.model is None:
            yield Finding(what, None, "not tried: `initialize` makes this student when the run begins")
        elif train.teacher == "live" and recipe.teacher.model is None:
            yield Finding(what, None, "not tried: the teacher beside it is made when the run begins")
        elif takes and shape and not room.gpu and (shape.parameters or 0) * compute.micro_tokens > TRIED_ON_CPU:
            yield Finding(what, None, f"not tried, since it would take long without a GPU; worked out: about {takes}")
        else:
            yield _trial(what, recipe, student.model, train, room, free, takes)


def _trial(
    what: str, recipe: Recipe, model: str, train: Train, room: Room, free: int, takes: Footprint | None
) -> Finding:
    """Run them and compare what they held with what there is."""
    compute = recipe.compute.train
    try:
        folder = models.resolve(model, recipe.root, offline=False).folder()
        live = recipe.teacher.model if train.teacher == "live" else None
        teacher = models.resolve(live, recipe.root, offline=False).folder() if live else None
        seen = preflight.run(preflight.Trial(train, compute, folder, room.workers, room.threads, room.gpu, teacher))
    except RaystillError as e:
        return Finding(what, str(e))
    peak = max(seen.peaks, default=0)
    if seen.fits and peak <= free:
        return Finding(f"{what}: {peak / memory.GB:.2f} GB held of {free / memory.GB:.1f}", None)
    lower = footprint.advice(takes, compute) if takes else "lower compute.train.micro_tokens"
    return Finding(
        what, f"they held {peak / memory.GB:.2f} GB and {free / memory.GB:.1f} GB are free: out of memory; {lower}"
    )

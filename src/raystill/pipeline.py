"""The line: from a recipe to a report.

`learn` and `compare` are the whole system, and the only place that says what depends on what. The Runner makes each step
whose artifact is missing; plan's Planner walks the same line and only names them.
"""

import json
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from raystill import filters, losses, placement, plugins, recipe_file, sources, storage, tasks, teachers
from raystill.artifacts import Artifact, Checkpoint, Outcome, Table
from raystill.asking import View
from raystill.context import Context, Progress
from raystill.errors import RecipeError
from raystill.meter import metered
from raystill.models import UNRESOLVED, resolve
from raystill.provenance import hardware
from raystill.recipe import (
    PLACEMENT_KEYS,
    ByColumn,
    Curate,
    Cut,
    Endpoint,
    Evaluate,
    Judge,
    Random,
    Recipe,
    Sampling,
    Score,
    Student,
    Task,
    Teacher,
    Train,
    Turn,
)
from raystill.records import SPLITS, Load
from raystill.serving import votes
from raystill.serving.keys import KEY
from raystill.session import ray_session
from raystill.stages import (
    curate,
    evaluate,
    generate,
    initialize,
    judge,
    load,
    mix,
    prepare,
    report,
    score,
    serve,
    train,
)
from raystill.stages import route as router
from raystill.stages import suite as lm_eval
from raystill.steps import Do, Runner, StageDone, Step, on_demand
from raystill.trackers import open_trackers

Serving = Callable[[Context], serve.Endpoint]


@dataclass(frozen=True)
class Round:
    """One on-policy round: a student's answers, what it learnt from, what the teacher thinks of it, who came of it."""

    writer: Checkpoint
    rollouts: Table
    examples: Table
    targets: Table
    learner: Checkpoint


@dataclass(frozen=True)
class Suited:
    """Further test data: its prompts and each model's answers, or each model's scores where lm-eval asks."""

    prompts: Table | None
    made: dict[str, Table] = field(default_factory=dict)
    """By model."""


@dataclass(frozen=True)
class Line:
    """A recipe's artifacts; models, answers and loads by the model's name in the report."""

    prompts: Table
    generations: dict[str, Table]
    """By teacher."""
    examples: Table
    models: dict[str, Checkpoint]
    targets: Table | None = None
    answers: dict[str, Table] = field(default_factory=dict)
    loads: dict[str, Table] = field(default_factory=dict)
    weights: dict[str, Checkpoint | None] = field(default_factory=dict)
    """By teacher; None for one that has none here."""
    rounds: dict[str, list[Round]] = field(default_factory=dict)
    """By student; the last one's learner is the student."""
    suites: dict[str, Suited] = field(default_factory=dict)
    """By the suite's name."""
    verdicts: Table | None = None
    """A judge's."""

    def answered(self) -> Iterator[Table]:
        """All that was asked of anybody, and may have been paid for."""
        yield from (*self.generations.values(), *self.answers.values())
        yield from (table for suite in self.suites.values() for table in suite.made.values())


def run(
    path: str,
    progress: Progress,
    stopping: threading.Event,
    compute: str | None = None,
    only: str | None = None,
    retry_rejected: bool = False,
    elsewhere: Callable[[str], None] | None = None,
) -> str | None:
    """Run a recipe to its report and return the report's folder. Finished steps are reused.

    With `only` one stage is made and None returned, unless that completes the line. With `retry_rejected` rows that a
    teacher rejected for a passing reason are asked again. `elsewhere` makes a stage that needs Ray, by its name.
    """
    recipe = recipe_file.load(path, compute).recipe
    storage.probe(recipe.root)
    with (
        ray_session(recipe.compute) as ensure_ray,
        tempfile.TemporaryDirectory(prefix="raystill-") as scratch,
        metered(recipe, stopping) as meter,
    ):
        do = Runner(recipe, progress, stopping, ensure_ray, Path(scratch), only, retry_rejected, elsewhere, meter)
        try:
            made = compare(recipe, learn(recipe, do), do)
        except StageDone:
            return None
    point(recipe, made)
    return report.report(recipe, made)


def measure(recipe: Recipe, name: str, model: Checkpoint, progress: Progress, stopping: threading.Event) -> Line:
    """One finished model's answers and load on the recipe's held-out rows; what it has said before is reused."""
    with (
        ray_session(recipe.compute) as ensure_ray,
        tempfile.TemporaryDirectory(prefix="raystill-") as scratch,
        metered(recipe, stopping) as meter,
    ):
        do = Runner(recipe, progress, stopping, ensure_ray, Path(scratch), meter=meter)
        made = Line(do(prepared(recipe, do)), {}, Table("", ""), {name: model})
        serve_and_ask(recipe, [name], made, do)
    return made


def taught(recipe: Recipe, do: Do) -> Line:
    """From data to the teacher's answers that are worth learning from."""
    prompts = do(prepared(recipe, do))
    suites = {
        name: Suited(do(prepared_suite(recipe, name, do)) if suite.data else None)
        for name, suite in recipe.evaluate.suites.items()
    }
    weights = {name: weights_of(teacher, do) for name, teacher in recipe.all_teachers().items()}
    teacher = next(iter(weights.values()))
    generations = asked_all(recipe, prompts, weights, do)
    examples = do(curated(recipe, recipe.curate, generations))
    models = {"teacher": teacher} if teacher else {}
    return Line(prompts, generations, examples, models, weights=weights, suites=suites)


def learn(recipe: Recipe, do: Do) -> Line:
    """From data to trained students."""
    made = taught(recipe, do)
    models, teacher = made.models, made.models.get("teacher")
    if recipe.score and scores_its_own(recipe):
        made = replace(made, targets=do(scored(recipe, recipe.score, made.weights, made.examples)))
    for name, student in recipe.all_students().items():
        start = untrained(recipe, student, teacher, do)
        models["baseline" if recipe.student else f"{name}-baseline"] = start
        models[name] = do(trained(recipe, name, student, made.prompts, made.examples, made.targets, teacher, start))
        for number in range(1, recipe.rounds_of(student) + 1):
            made.rounds.setdefault(name, []).append(on_policy(recipe, name, student, number, made, do))
            models[name] = made.rounds[name][-1].learner
    return made


def on_policy(recipe: Recipe, name: str, student: Student, number: int, made: Line, do: Do) -> Round:
    """One round: the student as it stands answers, the teacher scores that, and it learns on from there."""
    label, writer = f"{name} round {number}", made.models[name]
    prompts = do(drawn(recipe, label, number, made.prompts)) if recipe.on_policy.lambda_ < 1 else made.prompts
    rollouts = do(rolled_out(recipe, label, student, writer, prompts))
    # An answer that is wrong, empty or cut off is what the teacher corrects: nothing is filtered.
    examples = do(curated(recipe, Curate(filters=[]), {name: rollouts}, f"curate {label}"))
    if prompts is not made.prompts:
        examples = do(mixed(label, examples, made.examples))
    targets = do(scored_rollouts(recipe, label, examples, made))
    learner = do(
        trained(recipe, name, student, made.prompts, examples, targets, made.models.get("teacher"), writer, number)
    )
    return Round(writer, rollouts, examples, targets, learner)


def compare(recipe: Recipe, made: Line, do: Do) -> Line:
    """The line with every model's answers and load, asked over HTTP, and what a judge says of the answers."""
    if recipe.teacher.kind == "endpoint":
        made.answers["teacher"] = do(answered_paid(recipe, made, do.machines_usd))
        for name, suited in made.suites.items():
            if suited.prompts:
                suited.made["teacher"] = do(answered_paid(recipe, made, do.machines_usd, name))
    for group in [list(made.models)] if recipe.evaluate.together else [[name] for name in made.models]:
        serve_and_ask(recipe, group, made, do)
    return (
        replace(made, verdicts=judge_answers(recipe, recipe.evaluate.judge, made, do))
        if recipe.evaluate.judge
        else made
    )


def serve_and_ask(recipe: Recipe, group: list[str], made: Line, do: Do) -> None:
    """Answers, loads and suites of some models; only those are served of which one is missing, each by one engine of its
    own."""
    own = {name: compared_as(recipe, name) for name in group}
    alone = recipe.serve.model_copy(update={"replicas": 1, "adapters": False})
    with on_demand(lambda context: serve.serve(wanted, alone, context, own=own, port=0)) as endpoint:
        asked = {name: answered(recipe, name, made, endpoint) for name in group}
        speeds: dict[str, list[Load]] = {}
        loaded = {name: measured(recipe, name, made, endpoint, speeds, lambda: unmeasured) for name in group}
        further = {n: {suite: suited(recipe, suite, n, made, endpoint) for suite in made.suites} for n in group}
        # Two names of one model share its load, and it is measured under the first.
        unmeasured = list({loaded[n].fingerprint: n for n in reversed(group) if not do.done(loaded[n])}.values())
        steps = {name: [asked[name], loaded[name], *further[name].values()] for name in group}
        wanted = {name: made.models[name] for name in group if not all(do.done(step) for step in steps[name])}
        for name in group:
            made.answers[name] = do(asked[name])
            made.loads[name] = do(loaded[name])
            for suite, step in further[name].items():
                made.suites[suite].made[name] = do(step)


def judge_answers(recipe: Recipe, config: Judge, made: Line, do: Do) -> Table:
    """Verdicts on the answers, by a model behind a URL or one that is served for it. Raises RecipeError for an unknown one."""
    asked = recipe.all_teachers().get(config.model or "")
    if paid := config.endpoint or (asked and asked.endpoint):
        return do(judged(recipe, config, made, paid.identity(), {}, lambda context: paid, do.machines_usd))
    known = {name: model for name, model in {**made.weights, **made.models}.items() if model}
    if config.model not in known:
        raise RecipeError(f"evaluate.judge.model names no model that can be asked; there are: {', '.join(known)}")
    weights, own = known[config.model], served_as(recipe, config.model)
    hosted = {"judge": weights}
    with on_demand(lambda context: serve.serve(hosted, recipe.serve, context, own={"judge": own}, port=0)) as endpoint:

        def served(context: Context) -> Endpoint:
            at = endpoint(context)
            return Endpoint(url=at.base_url, model="judge", key_env=KEY if at.key else None)

        return do(judged(recipe, config, made, served_alike(recipe, config.model), hosted, served, do.machines_usd))


def served_as(recipe: Recipe, name: str) -> dict[str, Any]:
    """What one model's server is told beyond serve.engine: a served teacher is the one that answered in generate."""
    if name != "teacher":
        return {}
    teacher = recipe.teacher
    told = {"default_chat_template_kwargs": teacher.chat_template_kwargs, "reasoning_parser": teacher.reasoning_parser}
    engine = placement.asked("vllm", teacher.engine, recipe.compute.generate) or {}
    return {**engine, **{key: value for key, value in told.items() if value}}


def compared_as(recipe: Recipe, name: str) -> dict[str, Any]:
    """As `served_as`, without a prefix cache: answers asked before would make the same model look faster."""
    return served_as(recipe, name) | {"enable_prefix_caching": False}


def prepared(recipe: Recipe, do: Do) -> Step[Table]:
    """Prompts from the data, dealt to splits."""
    files: dict[str, Artifact | None] = {}
    for split in SPLITS:
        if paths := getattr(recipe.data, split):
            found = sources.identify(paths, do.root, offline=do.offline)
            files |= {f"{split}/{i}": Artifact(f, print_ or UNRESOLVED) for i, (f, print_) in enumerate(found.items())}
    return Step(
        label="prepare",
        stage="prepare",
        version=prepare.VERSION,
        decides={"data": recipe.data.identity(), "task": plugins.identity(recipe.task.kind, tasks.KINDS, "task")},
        inputs=files,
        kind=Table,
        make=lambda context: prepare.prepare(recipe.data, recipe.task.kind, context),
    )


def asked_all(recipe: Recipe, prompts: Table, weights: Mapping[str, Checkpoint | None], do: Do) -> dict[str, Table]:
    """Every teacher's answers, one teacher after another: a cascade's next one gets what the one before failed at."""
    generations: dict[str, Table] = {}
    asked = prompts
    for name, teacher in recipe.all_teachers().items():
        asked = route_to(recipe, name, prompts if isinstance(recipe.route, ByColumn) else asked, generations, do)
        left = left_of(recipe, generations.values(), do.machines_usd)
        generations[name] = generations_of(name, teacher, weights[name], asked, left, do)
    return generations


def left_of(recipe: Recipe, paid: Iterable[Table], machines_usd: float) -> float | None:
    """What these tables and machines leave of the budget, in US dollars; None where there is none."""
    spent = machines_usd + sum(table.counts.get("cost", 0.0) for table in paid)
    return None if recipe.budget.usd is None else max(0.0, recipe.budget.usd - spent)


def route_to(recipe: Recipe, name: str, prompts: Table, before: dict[str, Table], do: Do) -> Table:
    """The prompts that a teacher is asked: all, those of its column's values, or those that failed before."""
    route = recipe.route
    if isinstance(route, ByColumn):
        decides: dict[str, object] = {"route": route.identity(), "teacher": name}
        return do(routed(name, decides, {"prompts": prompts}, lambda c: router.by_column(route, name, prompts, c)))
    if route == "all" or not before:
        return prompts
    last = list(before.values())[-1]
    decides = {"route": "cascade", "task": task_identity(recipe)}
    inputs: dict[str, Artifact | None] = {"prompts": prompts, "before": last}
    return do(routed(name, decides, inputs, lambda c: router.failed(recipe.task, prompts, last, c)))


def routed(
    name: str,
    decides: Mapping[str, object],
    inputs: Mapping[str, Artifact | None],
    make: Callable[[Context], Outcome],
) -> Step[Table]:
    """One teacher's share of the prompts."""
    return Step(f"route {name}", "route", router.VERSION, decides, inputs, Table, make)


def weights_of(teacher: Teacher, do: Do) -> Checkpoint | None:
    """A teacher's weights: given, or the student of another recipe, made first if it is missing."""
    if teacher.recipe is None:
        return resolve(teacher.model, do.root, offline=do.offline) if teacher.model else None
    other = recipe_file.load(teacher.recipe).recipe
    if other.student is None or other.teacher.recipe == teacher.recipe:
        raise RecipeError(f"teacher.recipe {teacher.recipe} must have one 'student' and another teacher than itself")
    return learn(other, do).models["student"]


def generations_of(
    name: str, teacher: Teacher, weights: Checkpoint | None, prompts: Table, budget: float | None, do: Do
) -> Table:
    """A teacher's answers: the newest try. --retry-rejected adds one where rows were rejected for a passing reason."""
    made = generated(name, teacher, weights, prompts, budget, None)
    while do.done(made):
        again = generated(name, teacher, weights, prompts, budget, do(made))
        if not do.done(again):
            made = again if do.retry_rejected and do(made).counts.get("transient") else made
            break
        made = again
    return do(made)


def generated(
    name: str, teacher: Teacher, weights: Checkpoint | None, prompts: Table, budget: float | None, before: Table | None
) -> Step[Table]:
    """A teacher's answers. Its name is no identity: two recipes may call it differently and share them."""
    kind = plugins.identity(teacher.kind, teachers.KINDS, "teacher")
    return Step(
        label="generate" if name == "teacher" else f"generate {name}",
        stage="generate",
        version=generate.VERSION,
        decides={"teacher": teacher.identity() | {"kind": kind}},
        inputs={"prompts": prompts, "teacher": weights, "before": before},
        kind=Table,
        make=lambda context: generate.generate(teacher, weights, prompts, budget, before, context),
        ray=generate.needs_ray(teacher),
    )


def drawn(recipe: Recipe, label: str, number: int, prompts: Table) -> Step[Table]:
    """The prompts that a student answers in a round; those not drawn keep the teacher's answers."""
    share = recipe.on_policy.lambda_
    decides: dict[str, object] = {"lambda": share, "round": number}
    return routed(label, decides, {"prompts": prompts}, lambda context: router.drawn(share, number, prompts, context))


def rolled_out(recipe: Recipe, label: str, student: Student, writer: Checkpoint, prompts: Table) -> Step[Table]:
    """A student's own answers: generate, with the student for a teacher."""
    config = recipe.on_policy
    asked = Teacher(
        kind=config.kind,
        model=writer.url,
        system=student.system,
        sampling=Sampling.model_validate(config.sampling.model_dump()),
        engine=config.engine,
    )
    step = generated(label, asked, writer, prompts, None, None)
    compute = recipe.compute.model_copy(update={"generate": recipe.compute.rollout})
    return replace(step, make=lambda context: step.make(replace(context, compute=compute)))


def mixed(label: str, own: Table, taught: Table) -> Step[Table]:
    """A round's examples with the teacher's for the prompts that the student was not asked."""
    inputs: dict[str, Artifact | None] = {"own": own, "taught": taught}
    return Step(f"mix {label}", "mix", mix.VERSION, {}, inputs, Table, lambda context: mix.mix(own, taught, context))


def curated(recipe: Recipe, config: Curate, generations: Mapping[str, Table], label: str = "curate") -> Step[Table]:
    """The answers worth learning from."""
    chosen = [plugins.identity(name, filters.KINDS, "filter") for name in config.filters]
    return Step(
        label=label,
        stage="curate",
        version=curate.VERSION,
        decides={"curate": config.identity() | {"filters": chosen}, "task": task_identity(recipe)},
        inputs=dict(generations),
        kind=Table,
        make=lambda context: curate.curate(config, recipe.task, generations, context),
    )


def scored(recipe: Recipe, config: Score, weights: Mapping[str, Checkpoint | None], examples: Table) -> Step[Table]:
    """What the teacher, or a mixture of several, thinks of every token of the examples' answers."""
    (teacher, model), *further = voices(recipe, config, weights)
    return Step(
        label="score",
        stage="score",
        version=score.VERSION,
        decides={
            "score": config.identity(),
            "teacher": teacher.identity(),
            "further": [other.identity() for other, _ in further],
        },
        inputs={"examples": examples, "teacher": model, **{f"teacher {i}": m for i, (_, m) in enumerate(further, 2)}},
        kind=Table,
        make=lambda context: score.score(config, teacher, model, examples, context, further),
        ray=True,
    )


def voices(recipe: Recipe, config: Score, weights: Mapping[str, Checkpoint | None]) -> list[tuple[Teacher, Checkpoint]]:
    """Who scores: the first teacher, or those of the mixture. Raises RecipeError for one without weights."""
    asked, found = recipe.all_teachers(), []
    for name in config.mixture or [next(iter(asked))]:
        if (model := weights[name]) is None:
            raise RecipeError(
                f"score needs a teacher with weights, and a '{asked[name].kind}' teacher has none; remove 'score', or name "
                "a teacher.model"
            )
        found.append((asked[name], model))
    return found


def scores_its_own(recipe: Recipe) -> bool:
    """Whether the teacher's own answers are scored: not where soft targets are for rounds alone."""
    students = recipe.all_students().values()
    trains = [recipe.train_for(student) for student in students]
    soft = any(train.loss.kind != losses.TEXT and train.teacher == "stored" for train in trains)
    return soft or not any(recipe.rounds_of(student) for student in students)


def scored_rollouts(recipe: Recipe, label: str, examples: Table, made: Line) -> Step[Table]:
    """What the teacher thinks of a student's own answers, and how much of what it learnt first this teacher wrote."""
    if recipe.score is None:
        raise RecipeError(
            "on-policy rounds learn from what the teacher thinks, and there is no 'score'; add score: {k: 50}"
        )
    step = scored(recipe, recipe.score, made.weights, examples)
    scorers = voices(recipe, recipe.score, made.weights)

    def make(context: Context) -> Outcome:
        share = score.consistent(made.generations, made.examples, scorers)
        if share < 1:
            context.progress.say(
                f"of what the student learnt first the teacher that scores wrote only {share:.0%}: its rounds keep a bias "
                "towards the others; one teacher for both has none"
            )
        outcome = step.make(context)
        return replace(outcome, facts={**outcome.facts, "consistent": share})

    return replace(step, label=f"score {label}", make=make)


def untrained(recipe: Recipe, student: Student, teacher: Checkpoint | None, do: Do) -> Checkpoint:
    """The student before training, which is also the baseline."""
    name = student.init.from_ if isinstance(student.init, Cut) else student.model
    if name == "teacher" and teacher is None:
        raise RecipeError(
            f"init.from: teacher needs a teacher with weights, and a '{recipe.teacher.kind}' teacher has none"
        )
    base = teacher if name == "teacher" and teacher else resolve(name or "", do.root, offline=do.offline)
    if not isinstance(student.init, Cut | Random):
        return base
    seed = recipe.train_for(student).seed
    return do(
        Step(
            label="initialize",
            stage="initialize",
            version=initialize.VERSION,
            decides={"init": student.init.identity(), "seed": seed},
            inputs={"base": base},
            kind=Checkpoint,
            make=lambda context: initialize.initialize(student, base, seed, context),
        )
    )


def trained(
    recipe: Recipe,
    name: str,
    student: Student,
    prompts: Table,
    examples: Table,
    targets: Table | None,
    teacher: Checkpoint | None,
    start: Checkpoint,
    number: int = 0,
) -> Step[Checkpoint]:
    """The student, of an on-policy round where that has a number.

    Soft targets or the live teacher are an input only where its loss learns from them, and prompts where it answers them.
    """
    config = recipe.train_in_rounds(student) if number else recipe.train_for(student)
    loss = config.loss.identity() | {"kind": plugins.identity(config.loss.kind, losses.KINDS, "loss")}
    used = None if config.loss.kind == losses.TEXT or config.teacher == "live" else targets
    beside = beside_of(recipe.teacher, teacher) if config.teacher == "live" else None
    by_answers = config.early_stopping is not None and config.early_stopping.by_answers
    asked, judged = (prompts, {"task": task_identity(recipe)}) if by_answers else (None, {})
    label, own, in_round = (f"{name} round {number}", name, {"own": name}) if number else (name, None, {})
    shown = {"view": recipe.teacher.view()} if beside else {}
    return Step(
        label=f"train {label}",
        stage="train",
        version=train.VERSION,
        decides={"train": config.identity() | {"loss": loss}, "system": student.system, **judged, **shown, **in_round},
        inputs={
            "examples": examples,
            "targets": used,
            "teacher": beside.model if beside else None,
            "start": start,
            "prompts": asked,
        },
        kind=Checkpoint,
        make=lambda context: _train(
            recipe, label, config, student.system, examples, used, beside, start, asked, own, context
        ),
        ray=True,
    )


def beside_of(teacher: Teacher, model: Checkpoint | None) -> train.Live:
    """The teacher that runs beside a student. Raises RecipeError for one without weights."""
    if model is None:
        raise RecipeError(
            f"train.teacher: live needs a teacher with weights, and a '{teacher.kind}' teacher has none; name a teacher.model, "
            "or take train.teacher: stored"
        )
    return train.Live(teacher, model)


def _train(
    recipe: Recipe,
    label: str,
    config: Train,
    system: str | None,
    examples: Table,
    targets: Table | None,
    beside: train.Live | None,
    start: Checkpoint,
    asked: Table | None,
    own: str | None,
    context: Context,
) -> Outcome:
    folder = str(context.scratch) if storage.is_s3(recipe.root) else storage.join(recipe.root, "trackers")
    opened = open_trackers(recipe.trackers, folder, f"{recipe.name}-{label.replace(' ', '-')}")
    try:
        return train.train(
            config, system, examples, targets, start, opened, context, recipe.task, asked, beside, own=own
        )
    finally:
        for tracker in opened:
            tracker.close()


def held_out(recipe: Recipe, made: Line, suite: str | None) -> tuple[Evaluate, Table]:
    """How the held-out rows are asked and where they are, or those of a suite."""
    if suite is None:
        return recipe.evaluate, made.prompts
    prompts = made.suites[suite].prompts
    assert prompts is not None
    changes = {"split": "test", "limit": recipe.evaluate.suites[suite].limit}
    return recipe.evaluate.model_copy(update=changes), prompts


def answered(recipe: Recipe, name: str, made: Line, endpoint: Serving, suite: str | None = None) -> Step[Table]:
    """What a model says to the held-out prompts, or to a suite's."""
    (config, prompts), (system, examples) = held_out(recipe, made, suite), view_of(recipe, name)
    view = {"system": system, "examples": [turn.identity() for turn in examples]}
    sampling = {k: getattr(config, k) for k in ("split", "limit", "max_tokens", "temperature")}
    return Step(
        label=f"answer {name}" if suite is None else f"answer {name} on {suite}",
        stage="answer",
        version=evaluate.VERSION,
        decides={"view": view, "sampling": sampling, "engine": served_alike(recipe, name)},
        inputs={"model": made.models[name], "prompts": prompts},
        kind=Table,
        make=lambda context: evaluate.answer(config, name, system, examples, endpoint(context), prompts, context),
        ray=True,
    )


def served_alike(recipe: Recipe, name: str) -> dict[str, Any]:
    """What of a model's server decides its answers."""
    return recipe.serve.engine | {k: v for k, v in served_as(recipe, name).items() if k not in PLACEMENT_KEYS}


def answered_paid(recipe: Recipe, made: Line, machines_usd: float, suite: str | None = None) -> Step[Table]:
    """What a teacher behind a URL says to them, of what is left of the budget."""
    (config, prompts), teacher = held_out(recipe, made, suite), recipe.teacher
    left = left_of(recipe, made.answered(), machines_usd)
    return Step(
        label="answer teacher" if suite is None else f"answer teacher on {suite}",
        stage="answer",
        version=evaluate.VERSION,
        decides={
            "teacher": evaluate.asked_as(config, teacher).identity(),
            "rows": {"split": config.split, "limit": config.limit},
        },
        inputs={"prompts": prompts},
        kind=Table,
        make=lambda context: evaluate.answer_paid(config, teacher, prompts, left, context),
    )


def prepared_suite(recipe: Recipe, name: str, do: Do) -> Step[Table]:
    """A suite's rows as held-out prompts, read as 'data' is."""
    data = recipe.data.model_copy(update={"train": [], "validation": None, "test": recipe.evaluate.suites[name].data})
    return replace(prepared(recipe.model_copy(update={"data": data}), do), label=f"prepare {name}")


def suited(recipe: Recipe, suite: str, name: str, made: Line, endpoint: Serving) -> Step[Table]:
    """A model's answers to a suite's rows, or its scores by lm-eval."""
    config = recipe.evaluate.suites[suite]
    if config.lm_eval is None:
        return answered(recipe, name, made, endpoint, suite)
    return Step(
        label=f"{suite} of {name}",
        stage="suite",
        version=lm_eval.VERSION,
        decides={
            "suite": config.identity() | lm_eval.identity(config.lm_eval),
            "engine": served_alike(recipe, name),
        },
        inputs={"model": made.models[name]},
        kind=Table,
        make=lambda context: lm_eval.suite(config, name, recipe.evaluate.concurrency, endpoint(context), context),
        ray=True,
    )


def measured(
    recipe: Recipe,
    name: str,
    made: Line,
    endpoint: Serving,
    speeds: dict[str, list[Load]],
    group: Callable[[], list[str]],
) -> Step[Table]:
    """How fast a model answers under the stated loads, on this kind of machine. `speeds` is filled for a whole group that is
    served together by the first one's step."""
    config, (system, examples) = recipe.evaluate, view_of(recipe, name)
    view = {"system": system, "examples": [turn.identity() for turn in examples]}
    engine = recipe.serve.engine | served_as(recipe, name)
    keys = ("split", "limit", "max_tokens", "temperature", "load", "load_requests")
    stated = {k: getattr(config, k) for k in keys}
    if config.objective:
        stated |= {"objective": config.objective.identity(), "max_users": config.max_users}

    def make(context: Context) -> Outcome:
        if name not in speeds:
            bounds = (config.max_tokens, config.temperature)
            views = [View(n, *view_of(recipe, n), *bounds) for n in group()]
            speeds.update(load.measure(config, views, endpoint(context), made.prompts, hardware(), context))
        return load.outcome(speeds[name], context)

    return Step(
        label=f"measure {name}",
        stage="load",
        version=load.VERSION,
        decides={"view": view, "load": stated, "engine": engine, "hardware": hardware()},
        inputs={"model": made.models[name], "prompts": made.prompts},
        kind=Table,
        make=make,
        ray=True,
    )


def judged(
    recipe: Recipe,
    config: Judge,
    made: Line,
    decides: Mapping[str, object],
    inputs: Mapping[str, Artifact | None],
    endpoint: Callable[[Context], Endpoint],
    machines_usd: float,
) -> Step[Table]:
    """A judge's verdicts on the answers; `decides` and `inputs` are what it is."""
    left = left_of(recipe, made.answered(), machines_usd)
    students = {name: "baseline" if recipe.student else f"{name}-baseline" for name in recipe.all_students()}
    return Step(
        label="judge",
        stage="judge",
        version=judge.VERSION,
        decides={"judge": config.identity(), "by": dict(decides), "students": students},
        inputs={"prompts": made.prompts, **{f"answers/{n}": a for n, a in made.answers.items()}, **inputs},
        kind=Table,
        make=lambda context: judge.judge(
            recipe.evaluate,
            judge.asked_as(config, endpoint(context)),
            made.prompts,
            made.answers,
            students,
            left,
            context,
        ),
        ray=bool(inputs),
    )


def task_identity(recipe: Recipe) -> str | dict[str, object]:
    """The task's kind, or the user's own task with its source's hash; with its options where any is not the default."""
    kind = plugins.identity(recipe.task.kind, tasks.KINDS, "task")
    decides = recipe.task.identity()
    options = {
        key: value for key, value in decides.items() if value != Task.model_fields[key].default and key != "kind"
    }
    return {"kind": kind, **options} if options else kind


def view_of(recipe: Recipe, name: str) -> tuple[str | None, list[Turn]]:
    """System prompt and few-shot turns that a model is asked with."""
    if name == "teacher":
        return recipe.teacher.system, recipe.teacher.examples
    return recipe.all_students()["student" if recipe.student else name.removesuffix("-baseline")].system, []


def playground(recipe: Recipe, models: Iterable[str]) -> dict[str, Any]:
    """What the page of an endpoint is told of a recipe, in plain values: how each model is asked, what the machine costs,
    and where votes are kept."""
    return {
        "votes": votes.place(recipe.root, recipe.name),
        "split": recipe.evaluate.split,
        "sampling": {key: getattr(recipe.evaluate, key) for key in ("temperature", "max_tokens")},
        "views": _views(recipe, models),
        "machine_hour": recipe.prices.machine_hour,
        "currency": recipe.prices.currency,
    }


def routing(recipe: Recipe, models: Iterable[str]) -> dict[str, Any]:
    """What an endpoint is told of who answers whom and what is kept, in plain values; empty where the recipe says nothing."""
    serve = recipe.serve
    if not (serve.compare or serve.canary or serve.fallback or serve.capture):
        return {}
    return {
        **serve.model_dump(include={"public_name", "compare", "fallback", "capture"}),
        "arms": recipe.arms(),
        "student": recipe.fallback_student(),
        "views": _views(recipe, models),
        "task": recipe.task.model_dump(exclude_unset=True),
        "prices": recipe.prices.model_dump(),
    }


def _views(recipe: Recipe, models: Iterable[str]) -> dict[str, Any]:
    views = {name: view_of(recipe, name) for name in models}
    return {n: {"system": said, "examples": [e.model_dump() for e in shown]} for n, (said, shown) in views.items()}


def point(recipe: Recipe, made: Line) -> None:
    """Note the newest set of artifacts under the recipe's name: `<root>/runs/<name>.json`."""
    answers = {"generate" if n == "teacher" else f"generate/{n}": table for n, table in made.generations.items()}
    parts: dict[str, Artifact] = {"prepare": made.prompts, **answers, "curate": made.examples}
    parts |= {"score": made.targets} if made.targets else {}
    for name, rounds in made.rounds.items():
        parts[f"{name}/round-0"] = rounds[0].writer
        for number, of in enumerate(rounds, 1):
            tables = {"generate": of.rollouts, "curate": of.examples, "score": of.targets}
            parts |= {f"{key}/{name}/round-{number}": table for key, table in tables.items()}
            parts[f"{name}/round-{number}"] = of.learner
    newest = {key: artifact.url for key, artifact in {**parts, **made.models}.items()}
    newest |= {f"answers/{n}": a.url for n, a in made.answers.items()} | {
        f"load/{n}": a.url for n, a in made.loads.items()
    }
    for suite, asked in made.suites.items():
        newest |= {f"{'answers' if asked.prompts else 'scores'}/{n}/{suite}": t.url for n, t in asked.made.items()}
    newest |= {"judge": made.verdicts.url} if made.verdicts else {}
    data = json.dumps(newest, indent=2).encode()
    storage.write(storage.join(recipe.root, "runs", f"{recipe.name}.json"), data)

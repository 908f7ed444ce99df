"""Every mistake of a recipe that can be found offline without a model library: what `plan` lists and `run` refuses."""

import functools
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from raystill import (
    engine,
    filters,
    losses,
    memory,
    models,
    placement,
    plugins,
    recipe_file,
    sources,
    storage,
    tasks,
    teachers,
    trackers,
)
from raystill.errors import Problem, RaystillError, RecipeError
from raystill.metrics.compare import AGREEMENT
from raystill.recipe import (
    VALIDATION_LOSS,
    ByColumn,
    Cut,
    Endpoint,
    Generate,
    Loss,
    Random,
    Range,
    Recipe,
    Structured,
    Student,
    Teacher,
    Train,
)
from raystill.recipe_file import Loc, Located, mistakes
from raystill.reporting.gate import RATIOS, SHARES
from raystill.serving import keys
from raystill.stages import prepare, suite
from raystill.tasks import own
from raystill.teachers import endpoint
from raystill.training import fits, layermap, pairs, zero


def check(located: Located, gpu: bool | None = None) -> list[Problem]:
    """All mistakes, in the order of the recipe's own keys. `gpu` says whether training has GPUs; None looks for them here."""
    found: list[Problem] = []
    training = functools.partial(_training, gpu)
    for look in (
        _plugins, _data, _task, _teacher, _endpoint, _evaluation, _students, _losses, _mixture, _rounds, _tune, training,
        _early_stopping, _comparable, _owned, _budget, _gate, _keys, _root,
    ):  # fmt: skip
        found += look(located)
    # Students that share a block share its mistakes.
    return list(dict.fromkeys(found))


def _attempt(located: Located, loc: Loc, act: Callable[..., object], *arguments: Any) -> Iterator[Problem]:
    """A user error as a Problem at this key; its text already says what to type."""
    try:
        act(*arguments)
    except RaystillError as e:
        what, _, fix = str(e).partition("; ")
        yield Problem(located.where(*loc), what, fix or "mend it and plan again")


def _plugins(located: Located) -> Iterator[Problem]:
    recipe = located.recipe
    named: list[tuple[Loc, str, dict[str, str], str]] = [
        (("task", "kind"), recipe.task.kind, tasks.KINDS, "task"),
        *((("teachers", n, "kind"), t.kind, teachers.KINDS, "teacher") for n, t in recipe.teachers.items()),
        *([] if recipe.teachers else [(("teacher", "kind"), recipe.teacher.kind, teachers.KINDS, "teacher")]),
        *((("trackers", i), name, trackers.KINDS, "tracker") for i, name in enumerate(recipe.trackers)),
        *((("curate", "filters", i), name, filters.KINDS, "filter") for i, name in enumerate(recipe.curate.filters)),
    ]
    for loc, name, kinds, what in named:
        yield from _attempt(located, loc, plugins.find, name, kinds, what)


def _data(located: Located) -> Iterator[Problem]:
    data = located.recipe.data
    for split in ("train", "validation", "test"):
        paths = getattr(data, split)
        for i, path in enumerate([paths] if isinstance(paths, str) else paths or []):
            if storage.is_s3(path) or sources.is_hub_id(path):
                continue
            yield from _attempt(located, ("data", split, i), sources.find, path)
    yield from _attempt(located, ("data",), prepare.check_columns, data)


def _task(located: Located) -> Iterator[Problem]:
    """A task of one's own that cannot be read, and references that are missing or say nothing to the task."""
    recipe, task = located.recipe, located.recipe.task
    wrong = list(_attempt(located, ("task",), own.mistake, task))
    yield from wrong
    if wrong or task.kind not in tasks.KINDS:
        return
    try:
        references = [p.reference for p in prepare.first_prompts(recipe.data)]
    except RaystillError:
        return  # told by _data
    found = [r for r in references if r is not None]
    if references and not found and "metrics" in task.model_fields_set:
        yield Problem(
            located.where("task", "metrics"),
            f"{', '.join(task.metrics)}: measured against references, and none of the first {len(references)} rows has one",
            "data: {reference: COLUMN}, or a task.parse without metrics: agreement with the teacher is told then",
        )
    judge = tasks.load(task, set(found))
    takes = getattr(judge, "takes", "text")
    unread = sum(judge.wanted(r) is None for r in found)
    if unread > recipe.max_error_rate * len(found):
        yield Problem(
            located.where("data", "reference"),
            f"task {task.kind} cannot read {unread} of the first {len(found)} references; it takes {takes}",
            "data: {reference: another column}, or mend the rows; without data.reference the report tells agreement",
        )


def _teacher(located: Located) -> Iterator[Problem]:
    recipe = located.recipe
    for name, teacher in recipe.all_teachers().items():
        loc: Loc = ("teachers", name) if recipe.teachers else ("teacher",)
        if teacher.model:
            yield from _attempt(located, (*loc, "model"), _model, teacher.model, recipe.root)
        if teacher.recipe and not Path(teacher.recipe).is_file():
            yield Problem(located.where(*loc, "recipe"), f"{teacher.recipe} does not exist", "check the path")
        where = f"teachers.{name}.engine" if recipe.teachers else "teacher.engine"
        for refuse in (engine.refuse_owned, engine.refuse_unknown):
            yield from _attempt(located, (*loc, "engine"), refuse, teacher.engine, where)
        form = teacher.sampling.structured
        yield from _attempt(located, (*loc, "sampling", "structured"), _form, form) if form else ()
        yield from _attempt(located, (*loc, "engine"), _parallel, teacher, recipe.compute.generate, where)
    if isinstance(recipe.route, ByColumn) and (gone := set(recipe.route.map.values()) - set(recipe.all_teachers())):
        said = f"route.map names no teacher of this recipe: {', '.join(sorted(gone))}"
        yield Problem(located.where("route"), said, f"there are: {', '.join(recipe.all_teachers())}")


def _endpoint(located: Located) -> Iterator[Problem]:
    recipe = located.recipe
    asked: dict[Loc, Endpoint | None] = {
        ("teachers", name) if recipe.teachers else ("teacher",): teacher.endpoint
        for name, teacher in recipe.all_teachers().items()
    }
    asked[("evaluate", "judge")] = recipe.evaluate.judge.endpoint if recipe.evaluate.judge else None
    for loc, block in asked.items():
        if block is None:
            continue
        yield from _attempt(located, (*loc, "endpoint"), endpoint.key, block)
        if recipe.budget.usd is not None and not (block.price and (block.price.input or block.price.output)):
            yield Problem(
                located.where("budget", "usd"),
                "a budget needs the endpoint's price, or nothing spent could be counted",
                f"{'.'.join(map(str, loc))}.endpoint: price: {{input: …, output: …}}, in US dollars per million tokens",
            )


def _evaluation(located: Located) -> Iterator[Problem]:
    """A judge that is none of the models, and suites that are not there."""
    recipe, config = located.recipe, located.recipe.evaluate
    students = recipe.all_students()
    there = [
        *recipe.all_teachers(),
        *students,
        *(["baseline"] if recipe.student else [f"{n}-baseline" for n in students]),
    ]
    if config.judge and config.judge.model is not None and config.judge.model not in there:
        yield Problem(
            located.where("evaluate", "judge", "model"),
            f"'{config.judge.model}' is no model of this recipe, so it cannot judge",
            f"one of {', '.join(there)}, or an endpoint: {{url: …, model: …}}",
        )
    for name, of in config.suites.items():
        if of.lm_eval is not None:
            yield from _attempt(located, ("evaluate", "suites", name, "lm_eval"), suite.refuse_absent, of.lm_eval)
        for path in [of.data] if isinstance(of.data, str) else of.data or []:
            if not (storage.is_s3(path) or sources.is_hub_id(path)):
                yield from _attempt(located, ("evaluate", "suites", name, "data"), sources.find, path)


def _form(form: Structured) -> None:
    """Raise RecipeError for a schema that is none, or a regular expression that does not compile."""
    from jsonschema import Draft202012Validator, SchemaError

    try:
        if form.json_schema is not None:
            Draft202012Validator.check_schema(form.json_schema)
        if form.regex is not None:
            re.compile(form.regex)
    except SchemaError as e:
        at = "/".join(map(str, e.absolute_path)) or "its root"
        raise RecipeError(f"json_schema is no JSON Schema: {e.message} (at {at}); mend it there") from e
    except re.error as e:
        raise RecipeError(f"regex does not compile: {e}; mend it there") from e


def _parallel(teacher: Teacher, wide: Generate, where: str) -> None:
    """Raise when a model cannot be dealt to so many GPUs, is too large for them, or their number is said in two ways."""
    for kind, size in (("tensor", wide.tensor_parallel), ("pipeline", wide.pipeline_parallel)):
        own = teacher.engine.get(f"{kind}_parallel_size", size)
        if size is not None and own != size:
            raise RecipeError(
                f"{where}.{kind}_parallel_size is {own} and compute.generate.{kind}_parallel is {size}; keep one of them"
            )
    asked = placement.asked(teacher.kind, teacher.engine, wide) or {}
    tensor, pipeline = (asked.get(f"{kind}_parallel_size", 1) for kind in ("tensor", "pipeline"))
    if not all(isinstance(size, int) and size > 0 for size in (tensor, pipeline)):
        raise RecipeError(f"{where}: tensor_parallel_size and pipeline_parallel_size are whole numbers from 1; e.g. 2")
    if wide.gpus and tensor * pipeline not in (1, wide.gpus):
        raise RecipeError(
            f"compute.generate.gpus is {wide.gpus}, and an engine of tensor_parallel {tensor} and pipeline_parallel "
            f"{pipeline} holds {tensor * pipeline}; leave compute.generate.gpus out"
        )
    heads = (models.config(teacher.model) or {}).get("num_attention_heads") if teacher.model else None
    if isinstance(heads, int) and heads % tensor:
        fits = [n for n in (1, 2, 4, 8, 16) if heads % n == 0]
        raise RecipeError(
            f"{where}.tensor_parallel_size {tensor} does not divide the {heads} attention heads of {teacher.model}; "
            f"take one of {', '.join(map(str, fits))}"
        )
    if teacher.kind == "vllm" and teacher.model:
        memory.refuse(teacher.model, asked, memory.known_gpu_bytes())


def _students(located: Located) -> Iterator[Problem]:
    recipe = located.recipe
    for name, student in recipe.all_students().items():
        loc: Loc = ("student",) if recipe.student else ("students", name)
        for at, train in (((*loc, "train"), recipe.train_for), (("on_policy", "train"), recipe.train_in_rounds)):
            try:
                train(student)
            except ValidationError as e:
                for error in mistakes(e):
                    key = ".".join(map(str, error["loc"]))
                    yield Problem(located.where(*at), f"train.{key}: {error['msg']}", "see 'train' in docs/recipe.md")
                break
        if student.model:
            yield from _attempt(located, (*loc, "model"), _model, student.model, recipe.root)
        if isinstance(student.init, Cut):
            yield from _layers(located, loc, student, student.init)


def _losses(located: Located) -> Iterator[Problem]:
    """A loss that is none, or that the soft targets to be scored cannot give."""
    recipe, score = located.recipe, located.recipe.score
    for name, student in recipe.all_students().items():
        of_student: Loc = ("student",) if recipe.student else ("students", name)
        loc: Loc = (*of_student, "train", "loss") if "loss" in student.train else ("train", "loss")
        try:
            train = recipe.train_for(student)
        except ValidationError:
            continue  # told by _students
        loss = train.loss
        if unknown := list(_attempt(located, (*loc, "kind"), plugins.find, loss.kind, losses.KINDS, "loss")):
            yield from unknown
            continue
        given = pairs.supply(train, *((score.support, score.temperature) if score else (None, None)))
        for m in pairs.mistakes(loss, *given, train.packing):
            yield Problem(located.where(*loc, m.key), m.what, m.fix)
        if train.teacher == "live":
            yield from _attempt(located, (*loc[:-1], "teacher"), _beside, recipe.teacher, student, loss)
    rounds = any(recipe.rounds_of(student) for student in recipe.all_students().values())
    if score and not rounds and all(t.teacher == "live" for t in _trains(recipe)):
        what = "nothing reads what score would store: every student learns from the live teacher"
        yield Problem(located.where("score"), what, "remove it, or train: {teacher: stored}")


def _mixture(located: Located) -> Iterator[Problem]:
    """Teachers whose distributions cannot be mixed."""
    recipe = located.recipe
    asked = recipe.all_teachers()
    names = list(recipe.score.mixture) if recipe.score else []
    known = {name: models.token_ids(asked[name].model or "") for name in names}
    for name in names:
        where = located.where("score", "mixture", name)
        if asked[name].model is None and asked[name].recipe is None:
            what = f"a mixture needs each teacher's weights, and a '{asked[name].kind}' teacher has none"
            yield Problem(where, what, "name teachers with a model, or remove it from the mixture")
        elif known[names[0]] and known[name] and known[name] != known[names[0]]:
            what = f"{name} has another tokenizer than {names[0]}, so their distributions are about different things"
            yield Problem(where, what, "mix teachers of one family, or remove it from the mixture")


def _trains(recipe: Recipe) -> list[Train]:
    try:
        return [recipe.train_for(student) for student in recipe.all_students().values()]
    except ValidationError:
        return [recipe.train]  # told by _students


def _beside(teacher: Teacher, student: Student, loss: Loss) -> None:
    """Raise RecipeError for a live teacher that has no weights, another tokenizer than the student, or too few layers."""
    if teacher.model is None and teacher.recipe is None:
        raise RecipeError(
            f"a live teacher runs from its own weights, and a '{teacher.kind}' teacher has none; name a teacher.model, or "
            "take train.teacher: stored"
        )
    _same_tokens(teacher, student)
    theirs = models.config(teacher.model) if teacher.model else None
    if theirs and (ours := _shape(teacher, student)):
        layermap.check(loss, ours, theirs)


def _shape(teacher: Teacher, student: Student) -> dict[str, Any] | None:
    """The student's config.json as `init` will leave it; None for what is not local."""
    init = student.init
    name = init.from_ if isinstance(init, Cut) else student.model
    name = teacher.model if name == "teacher" else name
    config = models.config(name) if name else None
    if config is None:
        return None
    changes = {"num_hidden_layers": len(init.layers)} if isinstance(init, Cut) else {}
    return config | (init.random if isinstance(init, Random) else changes)


def _rounds(located: Located) -> Iterator[Problem]:
    """On-policy rounds that nobody could score, or in which a student would learn to say what it says anyhow."""
    recipe, score = located.recipe, located.recipe.score
    named = {name: student for name, student in recipe.all_students().items() if recipe.rounds_of(student)}
    if not named:
        return
    for refuse in (engine.refuse_owned, engine.refuse_unknown):
        yield from _attempt(located, ("on_policy", "engine"), refuse, recipe.on_policy.engine, "on_policy.engine")
    if recipe.teacher.model is None and recipe.teacher.recipe is None:
        yield Problem(
            located.where("rounds"),
            f"in a round the teacher scores what the student wrote, and a '{recipe.teacher.kind}' teacher has no weights here",
            "teacher: {model: …} with score: {k: 50}, or rounds: 0, which learns from answers alone",
        )
    elif score is None:
        what = "in a round the student learns from what the teacher thinks of its text, and there is no 'score'"
        yield Problem(located.where("rounds"), what, "score: {k: 50}, or rounds: 0")
    for student in named.values():
        try:
            train = recipe.train_in_rounds(student)
        except ValidationError:
            continue  # told by _students
        loss = train.loss
        loc: Loc = ("on_policy", "train", "loss") if "loss" in recipe.on_policy.train else ("train", "loss")
        if train.teacher == "live":
            what = "a round learns from what was scored before, and train.teacher is live"
            yield Problem(located.where("on_policy", "train"), what, "on_policy: {train: {teacher: stored}}")
        elif loss.kind == losses.TEXT:
            yield Problem(
                located.where(*loc, "kind"),
                f"{losses.TEXT} in a round would teach the student its own text, mistakes and all",
                "on_policy: {train: {loss: {kind: reverse_kl}}}, or another loss with soft targets",
            )
        elif loss.alpha < 1:
            yield Problem(
                located.where(*loc, "alpha"),
                f"alpha {loss.alpha:g} in a round gives the student's own text a share of {1 - loss.alpha:g}, mistakes and all",
                f"on_policy: {{train: {{loss: {{kind: {loss.kind}}}}}}}, and lambda below 1 for a share of the teacher's text",
            )
        elif unknown := list(_attempt(located, (*loc, "kind"), plugins.find, loss.kind, losses.KINDS, "loss")):
            yield from unknown
        elif score:
            for m in pairs.mistakes(loss, score.support, score.temperature, train.packing):
                yield Problem(located.where(*loc, m.key), m.what, m.fix)
            yield from _attempt(located, ("rounds",), _same_tokens, recipe.teacher, student)


def _tune(located: Located) -> Iterator[Problem]:
    """A search without anything to go by, or over values that cannot be."""
    recipe, config = located.recipe, located.recipe.tune
    if config is None:
        return
    students = recipe.all_students()
    name = config.student or next(iter(students))
    if name not in students:
        what = f"no student is called '{name}'"
        yield Problem(located.where("tune", "student"), what, f"there are: {', '.join(students)}")
        return
    if recipe.data.validation is None and recipe.data.split.validation == 0:
        what = "trials are compared by the validation text, and there is none"
        yield Problem(located.where("data", "split", "validation"), what, "data: {split: {validation: 0.05}}")
    if recipe.train_for(students[name]).validations == 0:
        what = "trials are compared at their validations, and there are none"
        yield Problem(located.where("train", "validations"), what, "train: {validations: 4}")
    for key, searched in config.space().items():
        if key in ("temperature", "k") and (recipe.score is None or (key, recipe.score.support) == ("k", "sampled")):
            what = f"{key} says nothing without soft targets of kind top_k"
            yield Problem(
                located.where("tune", key), what, "score: {k: 50} with a loss such as forward_kl, or remove it"
            )
            continue
        for value in [searched.min, searched.max] if isinstance(searched, Range) else searched:
            yield from _tried(located, name, key, value)


def _tried(located: Located, name: str, key: str, value: float) -> Iterator[Problem]:
    """What is wrong with one value of a search."""
    try:
        made = recipe_file.of(recipe_file.chosen(located.values, name, {key: value}))
        train = made.train_for(made.all_students()[name])
    except ValidationError as e:
        said = mistakes(e)[0]["msg"]
        yield Problem(located.where("tune", key), f"{key} {value:g}: {said}", "see 'tune' in docs/recipe.md")
        return
    if train.loss.kind in losses.KINDS:
        given = pairs.supply(train, *((made.score.support, made.score.temperature) if made.score else (None, None)))
        for m in pairs.mistakes(train.loss, *given, train.packing):
            if m.key == key:
                yield Problem(located.where("tune", key), m.what, m.fix)


def _early_stopping(located: Located) -> Iterator[Problem]:
    """A best validation is asked for, and there is nothing to validate on or no such metric."""
    recipe = located.recipe
    for name, student in recipe.all_students().items():
        of_student: Loc = ("student",) if recipe.student else ("students", name)
        loc: Loc = (*of_student, "train") if "early_stopping" in student.train else ("train",)
        try:
            early = recipe.train_for(student).early_stopping
        except ValidationError:
            continue  # told by _students
        if early is None:
            continue
        if recipe.data.validation is None and not recipe.data.split.validation:
            yield Problem(
                located.where(*loc, "early_stopping"),
                "there are no validation rows to choose the best student by",
                "data: {split: {validation: 0.05}}, or a file as data.validation",
            )
        if early.by_answers and (known := _metrics(recipe)) and early.metric not in known:
            yield Problem(
                located.where(*loc, "early_stopping", "metric"),
                f"task {recipe.task.kind} has no metric '{early.metric}'",
                f"one of {', '.join((VALIDATION_LOSS, *known))}",
            )


def _metrics(recipe: Recipe) -> list[str]:
    """Metrics of the first rows; none for the user's own task, which a plan does not run, or where others tell why."""
    if recipe.task.kind not in tasks.KINDS:
        return []
    try:
        prompts = list(prepare.first_prompts(recipe.data))
        return tasks.metrics_of(tasks.load(recipe.task, {p.reference for p in prompts if p.reference}), prompts)
    except RaystillError:
        return []


def _training(gpu: bool | None, located: Located) -> Iterator[Problem]:
    """What the trainer cannot do with these keys, here or on the cluster that is named."""
    recipe, compute = located.recipe, located.recipe.compute.train
    if gpu is None and not engine.on_cluster():
        gpu = engine.has_gpu()
    for name, student in recipe.all_students().items():
        loc: Loc = ("student",) if recipe.student else ("students", name)
        try:
            config = recipe.train_for(student)
        except ValidationError:
            continue  # told by _students
        for p in fits.mistakes(config, compute, compute.most, gpu):
            key = p.where.split(".")
            own = (*loc, *key) if len(key) > 1 and key[1] in student.train else key
            yield Problem(located.where(*own), p.what, p.fix)


def _same_tokens(teacher: Teacher, student: Student) -> None:
    """Raise RecipeError when both tokenizers can be read here and number their tokens differently."""
    name = student.init.from_ if isinstance(student.init, Cut) else student.model
    theirs = models.token_ids(teacher.model) if teacher.model else None
    ours = models.token_ids(name) if name and name != "teacher" else None
    if theirs and ours and theirs != ours:
        raise RecipeError(
            f"a live teacher is compared token by token, and {name} has another tokenizer than {teacher.model}; take train: "
            "{teacher: stored} with score: {k: 50}, which maps the teacher's tokens to the student's"
        )


def _layers(located: Located, loc: Loc, student: Student, cut: Cut) -> Iterator[Problem]:
    name = located.recipe.teacher.model if cut.from_ == "teacher" else cut.from_
    config = models.config(name) if name and Path(name, "config.json").is_file() else None
    layers = config.get("num_hidden_layers") if config else None
    if isinstance(layers, int) and (bad := [i for i in cut.layers if not 0 <= i < layers]):
        yield Problem(
            located.where(*loc, "init", "layers"),
            f"{name} has layers 0 to {layers - 1}, not {', '.join(map(str, bad))}",
            f"layers: {[round(i * (layers - 1) / max(1, len(cut.layers) - 1)) for i in range(len(cut.layers))]}",
        )


def _comparable(located: Located) -> Iterator[Problem]:
    """Models that cannot both be asked the same rows: one whose context an answer fills leaves no room for a prompt."""
    recipe = located.recipe
    named = {"teacher": (recipe.teacher.model, recipe.serve.engine | recipe.teacher.engine)}
    for name, student in recipe.all_students().items():
        model = student.init.from_ if isinstance(student.init, Cut) else student.model
        named[name] = (model, recipe.serve.engine)
    asked = recipe.evaluate.max_tokens
    for name, (model, served) in named.items():
        if not model:
            continue
        config = models.config(model) if Path(model, "config.json").is_file() else None
        context = served.get("max_model_len") or (config or {}).get("max_position_embeddings")
        if isinstance(context, int) and 0 < context <= asked:
            yield Problem(
                located.where("evaluate", "max_tokens"),
                f"{name} ({model}) has a context of {context} tokens, and answers of {asked} leave no room for a prompt: "
                "the models could not be compared on the same rows",
                f"evaluate: {{max_tokens: {context // 4}}}, or a model with a longer context",
            )


def _owned(located: Located) -> Iterator[Problem]:
    recipe = located.recipe
    for refuse in (engine.refuse_owned, engine.refuse_unknown):
        yield from _attempt(located, ("serve", "engine"), refuse, recipe.serve.engine, "serve.engine")
    for line in zero.refuse_owned(recipe.train.deepspeed):
        what, _, fix = line.partition("; ")
        yield Problem(located.where("train", "deepspeed"), what, fix)


def _budget(located: Located) -> Iterator[Problem]:
    """A budget of which nothing could ever be counted."""
    recipe = located.recipe
    cluster = engine.on_cluster() or "kubernetes" in recipe.compute.model_fields_set
    if recipe.budget.gpu_hours is not None and not cluster and not engine.has_gpu():
        what = "budget.gpu_hours counts GPUs, and this machine has none"
        yield Problem(located.where("budget", "gpu_hours"), what, "budget: {usd: …} with prices: {machine_hour: …}")
    paid = any(teacher.endpoint for teacher in recipe.all_teachers().values())
    if recipe.budget.usd is not None and not paid and not recipe.prices.machine_hour:
        what = "a budget in money needs a price, or nothing spent could be counted"
        yield Problem(located.where("budget", "usd"), what, "prices: {machine_hour: …}, in US dollars")
    if recipe.budget.usd is not None and recipe.prices.currency != "USD":
        yield Problem(
            located.where("prices", "currency"),
            f"the budget is in US dollars and prices are in {recipe.prices.currency}, which are never converted",
            "prices: {currency: USD}, with all prices in US dollars",
        )


def _gate(located: Located) -> Iterator[Problem]:
    """A bound on what the report will not have."""
    recipe = located.recipe
    priced = recipe.prices.machine_hour or (recipe.teacher.endpoint and recipe.teacher.endpoint.price)
    lacks = {
        "cost_ratio": (not priced, "a cost needs a price", "prices: {machine_hour: …}"),
        "users_ratio": (
            recipe.evaluate.objective is None,
            "users are counted within an objective, and there is none",
            "evaluate: {objective: {latency_p95_s: …}}",
        ),
    }
    if recipe.teacher.kind == "endpoint":
        far = (True, "the teacher answers behind a URL, so nothing of it is known here", "take this bound out")
        lacks |= dict.fromkeys(("latency_ratio", "memory_ratio", "users_ratio"), far)
    known = _metrics(recipe)
    for key in recipe.gate:
        missing, what, fix = lacks.get(key, (False, "", ""))
        if missing:
            yield Problem(located.where("gate", key), f"{key}: {what}", fix)
        elif key not in (*RATIOS, *SHARES, AGREEMENT) and known and key not in known:
            told = ", ".join((*SHARES, *RATIOS, AGREEMENT, *known))
            yield Problem(
                located.where("gate", key), f"task {recipe.task.kind} has no metric '{key}'", f"one of {told}"
            )


def _keys(located: Located) -> Iterator[Problem]:
    file = located.recipe.serve.keys_file
    if file and not storage.is_s3(file):
        yield from _attempt(located, ("serve", "keys_file"), keys.known, None, file)


def _root(located: Located) -> Iterator[Problem]:
    root = located.recipe.root
    if storage.is_s3(root):
        return
    folder = Path(root).absolute()
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        yield Problem(located.where("root"), f"root {root} is not writable ({folder})", "root: a folder of your own")


def _model(name: str, root: str) -> None:
    models.resolve(name, root, offline=True)
    models.config(name)

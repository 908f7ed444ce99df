"""plan: what each stage takes of GPUs, tokens, hours and money, and what another choice would change. Offline arithmetic.

Rates are worked out (speeds.py) until `plan --rehearse` has measured them; which of the two it is, every line says.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from raystill import memory, origins, placement, planning, sample, speeds
from raystill.launch import sizes
from raystill.launch.gpus import KINDS
from raystill.planning import Plan
from raystill.recipe import ByColumn, Endpoint, Recipe, Student, Teacher, Train
from raystill.sample import Sample, Took
from raystill.shapes import Shape
from raystill.speeds import Device, Engine
from raystill.workload import NOTHING, Span, Workload, workload

ASSUMED, ON_CORES, MEASURED = 2.0, 3.0, 1.15
"""By how much hours may be off to either side: worked out for GPUs (public runs lie within it), for cores, and measured."""
START_S = {True: 300.0, False: 30.0}
"""A stage before its first row, by whether it is on GPUs: a node, an image and an engine; or processes."""
LOADED = 1e9
"""Bytes of weights that a node reads in a second."""
NEXT = Span(0, 0.2, 1)
"""Share of the prompts that a cascade's next teacher is asked."""
ANSWER_S = 5.0
"""One answer of an endpoint without a stated rate."""
ONE_BY_ONE = 16
"""Rows that the transformers teacher answers at once."""


@dataclass(frozen=True)
class Place:
    """What a run is planned on: devices, so many a node. Without GPUs the node is this machine."""

    device: Device
    per_node: int

    def __str__(self) -> str:
        return f"{self.device.name} GPUs, {self.per_node} a node" if self.device.gpu else f"{self.per_node} cores here"


@dataclass(frozen=True)
class Cost:
    """One stage: `tokens` read and written, `hours` from its start to its end, `how` they come about."""

    stage: str
    devices: int
    tokens: Span
    hours: Span
    money: Span | None
    how: str


@dataclass(frozen=True)
class Estimate:
    """All stages that are to do, what was assumed for them, and what other choices would change."""

    place: Place
    costs: list[Cost]
    assumed: list[str]
    choices: list[str]
    currency: str

    @property
    def tokens(self) -> Span:
        """Of all stages."""
        return sum((cost.tokens for cost in self.costs), NOTHING)

    @property
    def hours(self) -> Span:
        """Of all stages, one after another."""
        return sum((cost.hours for cost in self.costs), NOTHING)

    @property
    def device_hours(self) -> Span:
        """GPU-hours, or hours of cores."""
        return sum((cost.hours.times(cost.devices) for cost in self.costs), NOTHING)

    @property
    def money(self) -> Span | None:
        """None where nothing has a price."""
        known = [cost.money for cost in self.costs if cost.money is not None]
        return sum(known, NOTHING) if known else None


@dataclass(frozen=True)
class Ground:
    """What figures stand on: the recipe, its rows, where it runs, what was measured, and the steps that are to do."""

    recipe: Recipe
    load: Workload
    place: Place
    sample: Sample | None
    to_do: frozenset[str]

    def took(self, label: str) -> Took | None:
        """What a step of this name took in the sample."""
        return self.sample.steps.get(label) if self.sample else None

    @property
    def prompt(self) -> float:
        """Tokens of a prompt as the teacher sees it."""
        return self.sample.prompt_tokens if self.sample else self.load.prompt

    @property
    def answer(self) -> Span:
        """Tokens of an answer."""
        return Span.exact(self.sample.answer_tokens).within(MEASURED) if self.sample else self.load.answer

    @property
    def off(self) -> float:
        """By how much hours that are worked out may be off."""
        return ASSUMED if self.place.device.gpu else ON_CORES

    def priced(self, stage: str, devices: int, tokens: Span, seconds: Span, how: str) -> Cost:
        """A stage with its price: the share of nodes that it holds, for as long as it holds them."""
        hours, price = seconds.times(1 / 3600), self.recipe.prices.machine_hour
        per_machine = self.recipe.prices.machine_gpus or self.place.per_node
        share = devices / per_machine if self.place.device.gpu else 1.0
        return Cost(stage, devices, tokens, hours, hours.times(share * price) if price else None, how)


def estimate(plan: Plan) -> Estimate | None:
    """What a plan's recipe takes; None for one with mistakes, or where all is done."""
    recipe = plan.recipe
    if recipe is None or plan.problems:
        return None
    done = {step.label: step.state == "done" for step in plan.steps}  # of equal labels the last is the recipe's own
    left = frozenset(label for label, is_done in done.items() if not is_done)
    ground = Ground(recipe, workload(plan, recipe), place(recipe), sample.of(recipe), left)
    found = list(costs(ground))
    if not found:
        return None
    return Estimate(ground.place, found, list(assumed(ground)), list(choices(ground, found)), recipe.prices.currency)


def place(recipe: Recipe) -> Place:
    """The cluster's GPUs where the recipe names a cluster or this machine could not hold its models; else this machine."""
    if "kubernetes" not in recipe.compute.model_fields_set:
        if kind := speeds.kind_here():
            return Place(speeds.of_node(kind, KINDS[kind]), len(memory.gpu_sizes()))
        core, cores = speeds.core(), os.cpu_count() or 1
        if all(speeds.fewest(shape, core, 0) <= cores for shape in _shapes(recipe)):
            return Place(core, cores)
    return of_kind(recipe.compute.kubernetes.gpu)


def of_kind(kind: str) -> Place:
    """Nodes of this type of GPU."""
    return Place(speeds.of_node(kind, KINDS[kind]), KINDS[kind].gpus)


def costs(ground: Ground) -> Iterator[Cost]:
    """The stages that are to do, in the line's order. A model of unknown size has none; `assumed` says so."""
    recipe, load = ground.recipe, ground.load
    for number, (name, teacher) in enumerate(recipe.all_teachers().items()):
        label = "generate" if name == "teacher" else f"generate {name}"
        if label in ground.to_do:
            yield from answering(ground, label, teacher, _share(recipe, number).times(load.asked * teacher.sampling.n))
    if "score" in ground.to_do:
        yield from scoring(ground, "score", load.asked * recipe.teacher.sampling.n)
    for name, student in recipe.all_students().items():
        if f"train {name}" in ground.to_do:
            yield from learning(ground, f"train {name}", student, recipe.train_for(student))
        for number in range(1, recipe.rounds_of(student) + 1):
            label = f"{name} round {number}"
            if f"train {label}" in ground.to_do:
                writer = Teacher(model=student.model or "student", sampling=recipe.teacher.sampling)
                shape, wide = origins.of_student(student, recipe.teacher).shape, recipe.compute.rollout
                rows = Span.exact(load.asked * recipe.on_policy.lambda_)
                yield from _engine_answers(ground, f"generate {label}", writer, shape, wide.replicas, rows)
                yield from scoring(ground, f"score {label}", rows.likely)
                yield from learning(ground, f"train {label}", student, recipe.train_in_rounds(student))
    yield from comparing(ground)
    yield from between(ground)


def between(ground: Ground) -> Iterator[Cost]:
    """What a sample took that no stage above counts: rows that are read and sifted, Ray's start, engines that end."""
    if ground.sample:
        took = [took.fixed_s for label, took in ground.sample.steps.items() if label in _beside(ground)]
        devices = 0 if ground.place.device.gpu else ground.place.per_node
        seconds = Span.exact(ground.sample.between_s + sum(took)).within(MEASURED)
        yield ground.priced("between and beside", devices, NOTHING, seconds, "measured")


def answering(ground: Ground, label: str, teacher: Teacher, rows: Span) -> Iterator[Cost]:
    """A teacher's answers to so many prompts."""
    if teacher.endpoint:
        yield paid(ground, label, teacher.endpoint, rows)
    elif teacher.model or teacher.recipe:
        shape, wide = origins.of_teacher(teacher).shape, ground.recipe.compute.generate
        yield from _engine_answers(ground, label, teacher, shape, wide.replicas, rows)


def paid(ground: Ground, label: str, endpoint: Endpoint, rows: Span) -> Cost:
    """Answers of a URL: as fast as its limits allow, at its price."""
    each = ground.answer.likely + ground.prompt
    took = ground.took(label)
    limits = [1 / took.each_s if took else endpoint.concurrency / ANSWER_S]
    limits += [endpoint.requests_per_minute / 60] if endpoint.requests_per_minute else []
    limits += [endpoint.tokens_per_minute / 60 / each] if endpoint.tokens_per_minute else []
    seconds = rows.times(1 / min(limits)).within(MEASURED if took else ASSUMED)
    read, wrote = rows.times(ground.prompt), rows.by(ground.answer)
    price = endpoint.price
    money = (read.times(price.input) + wrote.times(price.output)).times(1e-6) if price else None
    how = f"{min(limits):.3g} answers/s" + (f", {price.input:g} and {price.output:g} a million tokens" if price else "")
    return Cost(label, 0, read + wrote, seconds.times(1 / 3600), money, how)


def _engine_answers(
    ground: Ground, label: str, teacher: Teacher, shape: Shape | None, replicas: int | tuple[int, int], rows: Span
) -> Iterator[Cost]:
    """Answers of engines with weights of their own."""
    if shape is None or not shape.parameters:
        return
    engine = engine_of(ground, teacher, shape)
    most = (replicas if isinstance(replicas, int) else replicas[1]) if ground.place.device.gpu else 1
    tokens = rows.times(ground.prompt) + rows.by(ground.answer)
    if took := ground.took(label):
        seconds, how = Span.exact(took.fixed_s) + rows.times(took.each_s).within(MEASURED), "measured"
    else:
        start = _start(engine)
        low, likely, high = (replace(engine, answer=a).answers_s(1) / most for a in ground.answer)
        work = Span(rows.low * low / ground.off, rows.likely * likely, rows.high * high * ground.off)
        seconds, rate = Span.exact(start) + work, ground.answer.likely / likely
        how = f"{rate:,.0f} tokens/s, {engine.batch} rows at once in each of {most}"
    yield ground.priced(label, engine.devices * most, tokens, seconds, f"{how}; {_holds(engine)}")


def scoring(ground: Ground, label: str, rows: float) -> Iterator[Cost]:
    """A forward pass of the teacher over prompts and answers."""
    shape = origins.of_teacher(ground.recipe.teacher).shape
    if shape is None or not shape.parameters:
        return
    engine, took = engine_of(ground, ground.recipe.teacher, shape), ground.took(label)
    replicas = placement.replicas(ground.recipe.compute.generate)[1] if ground.place.device.gpu else 1
    tokens = ground.answer.plus(ground.prompt).times(rows)
    seconds = Span.exact(took.fixed_s if took else _start(engine))
    seconds += tokens.times(engine.token_s / replicas).within(ground.off)
    yield ground.priced(label, engine.devices * replicas, tokens, seconds, "a forward pass; " + _holds(engine))


def learning(ground: Ground, label: str, student: Student, train: Train) -> Iterator[Cost]:
    """A student's training."""
    recipe, device = ground.recipe, ground.place.device
    shape = origins.of_student(student, recipe.teacher).shape
    if shape is None or not shape.parameters:
        return
    beside = origins.of_teacher(recipe.teacher).shape if train.teacher == "live" else None
    workers = sizes.workers(recipe) if device.gpu else ground.place.per_node
    rows = ground.load.rows["train"] * recipe.teacher.sampling.n * (ground.sample.kept if ground.sample else 1)
    if ground.sample and label in ground.sample.learnt_tokens:
        each = Span.exact(ground.sample.learnt_tokens[label])
    else:
        each = ground.answer.plus(ground.prompt)
    tokens, took = each.times(rows * train.epochs), ground.took(label)
    if took:
        seconds, how = Span.exact(took.fixed_s) + tokens.times(took.each_s).within(MEASURED), "measured"
    else:
        token_s = speeds.learns_s(shape, train, recipe.compute.train.activation_checkpointing, device, beside)
        seconds = Span.exact(START_S[device.gpu]) + tokens.times(token_s / workers).within(ground.off)
        how = f"{1 / token_s:,.0f} tokens/s on each {device.name}"
    held = planning.held(recipe, student, workers if device.gpu else max(1, workers // 2), device.gpu)
    room = f"; each must hold {held}, of {device.memory / 1e9:.0f} GB" if held and device.gpu else ""
    yield ground.priced(label, workers, tokens, seconds, how + room)


def comparing(ground: Ground) -> Iterator[Cost]:
    """Answers and loads of all models, one after another, each on engines of its own."""
    recipe, asked = ground.recipe, ground.recipe.evaluate
    rows = min(ground.load.rows[asked.split], asked.limit or ground.load.rows[asked.split])
    answer = Span(*(min(a, asked.max_tokens) for a in ground.answer))
    devices, tokens, seconds, measured = 1, NOTHING, NOTHING, False
    for name, teacher, shape in _compared(recipe):
        if shape is None or not shape.parameters:
            continue
        engine = engine_of(ground, teacher, shape)
        parts: dict[str, list[tuple[int, float]]] = {
            f"answer {name}": [(asked.concurrency, rows)],
            f"measure {name}": [(c, recipe.evaluate.load_requests + c) for c in asked.load],
        }
        for label in parts.keys() & ground.to_do:
            devices = max(devices, engine.devices)
            count = sum(n for _, n in parts[label])
            tokens += answer.plus(ground.prompt).times(count)
            if took := ground.took(label):
                seconds += Span.exact(took.fixed_s) + Span.exact(count * took.each_s).within(MEASURED)
                measured = True
                continue
            start = _start(engine) if label.startswith("answer") else 0.0
            each = [sum(replace(engine, answer=a).answers_s(n, c) for c, n in parts[label]) for a in answer]
            seconds += Span(each[0] / ground.off, each[1], each[2] * ground.off).plus(start)
    if tokens.likely:
        how = "measured" if measured else "one model after another, at the stated concurrencies"
        yield ground.priced(
            "evaluate", devices if ground.place.device.gpu else ground.place.per_node, tokens, seconds, how
        )


def engine_of(ground: Ground, teacher: Teacher, shape: Shape) -> Engine:
    """An engine on as many GPUs as the recipe says, or as hold the model; on all cores of a machine without."""
    row = ground.prompt + ground.answer.high
    asked = placement.asked("vllm", teacher.engine, ground.recipe.compute.generate) or {}
    told = int(asked.get("tensor_parallel_size", 1)) * int(asked.get("pipeline_parallel_size", 1))
    device = ground.place.device
    devices = max(told, speeds.fewest(shape, device, row)) if device.gpu else ground.place.per_node
    most = ONE_BY_ONE if teacher.kind == "transformers" else int(teacher.engine.get("max_num_seqs", speeds.BATCH))
    return Engine(shape, device, devices, ground.prompt, ground.answer.likely, most)


def assumed(ground: Ground) -> Iterator[str]:
    """What figures rest on that nobody measured."""
    recipe, device = ground.recipe, ground.place.device
    if "kubernetes" not in recipe.compute.model_fields_set and device.gpu and not speeds.kind_here():
        yield f"GPUs of type {device.name}, as this machine holds not all models; compute: {{kubernetes: {{gpu: …}}}}"
    if ground.sample is None:
        yield from ground.load.assumed
        yield (
            f"{speeds.READS:.0%} of the memory's bandwidth, {speeds.ANSWERS:.0%} of its arithmetic for answers and "
            f"{speeds.LEARNS:.0%} for learning; hours may be off by {ground.off:g} to either side; measure: raystill plan "
            "RECIPE --rehearse"
        )
    for name, teacher in recipe.all_teachers().items():
        if teacher.recipe:
            yield f"{name} is made by {teacher.recipe} if it is missing, which is not counted here; plan that file, too"
        elif teacher.model and origins.of_teacher(teacher).shape is None:
            yield f"nothing for {name}: the size of {teacher.model} is not known here"
        told = placement.asked("vllm", teacher.engine, recipe.compute.generate) or {}
        shape = origins.of_teacher(teacher).shape
        if device.gpu and teacher.kind == "vllm" and shape and shape.parameters:
            needed = engine_of(ground, teacher, shape).devices
            if needed > (has := int(told.get("tensor_parallel_size", 1)) * int(told.get("pipeline_parallel_size", 1))):
                yield (
                    f"{needed} GPUs for each engine of {name}, which {has} of {device.memory / 1e9:.0f} GB cannot hold; "
                    f"compute: {{generate: {{{_spread(needed, ground.place.per_node)}}}}}"
                )
    if not recipe.prices.machine_hour:
        yield "no price of machine time; prices: {machine_hour: …}"


def choices(ground: Ground, found: Sequence[Cost]) -> Iterator[str]:
    """What is cheaper or faster: another GPU, more replicas, more workers, spot nodes."""
    recipe, wide = ground.recipe, ground.recipe.compute.generate
    if not ground.place.device.gpu or ground.sample:
        return
    hours, nodes = _sums(found, ground.place)
    for kind in KINDS:
        if kind == ground.place.device.name:
            continue
        other = replace(ground, place=of_kind(kind))
        then = list(costs(other))
        then_hours, then_nodes = _sums(then, other.place)
        most = max(c.devices for c in then)
        if then_hours < 2 * hours and most <= 2 * other.place.per_node:
            price = f" ({nodes / then_nodes * recipe.prices.machine_hour:.0f} {recipe.prices.currency})"
            worth = (
                f"cheaper while its node costs less than {nodes / then_nodes:.2f} of a {ground.place.device.name} node"
            )
            yield f"{kind}: {then_hours:.1f} h on up to {most} GPUs; {worth}{price if recipe.prices.machine_hour else ''}"
    made = [cost for cost in found if cost.stage.startswith("generate") and cost.devices]
    if made:
        _, most = placement.replicas(wide)
        saved = sum(cost.hours.likely for cost in made) / 2
        yield f"compute.generate.replicas: {2 * most}: about {saved:.1f} h less, for the same money"
        if not recipe.compute.kubernetes.spot:
            yield "teachers on spot nodes (compute.kubernetes.spot): a lost node costs its unfinished units, nothing else"
    workers = sizes.workers(recipe)
    trained = [cost for cost in found if cost.stage.startswith("train")]
    if trained and 2 * workers <= min(recipe.train_for(s).batch_size for s in recipe.all_students().values()):
        saved = sum(cost.hours.likely for cost in trained) / 2
        yield f"compute.train.workers: {2 * workers}: about {saved:.1f} h less, for about the same money"


def _beside(ground: Ground) -> set[str]:
    """Steps that need no engine and no training."""
    return {label for label in ground.to_do if label.split()[0] in ("prepare", "route", "curate", "mix", "initialize")}


def _sums(found: Sequence[Cost], at: Place) -> tuple[float, float]:
    """Hours of all stages, and of the nodes that they hold."""
    hours = [cost.hours.likely for cost in found]
    return sum(hours), sum(h * cost.devices / at.per_node for h, cost in zip(hours, found, strict=True))


def _compared(recipe: Recipe) -> Iterator[tuple[str, Teacher, Shape | None]]:
    """Models that are served to be compared, by their names in the report, with how their engines are asked for."""
    if recipe.teacher.model or recipe.teacher.recipe:
        yield "teacher", recipe.teacher, origins.of_teacher(recipe.teacher).shape
    for name, student in recipe.all_students().items():
        shape = origins.of_student(student, recipe.teacher).shape
        served = Teacher(kind="scripted", engine=recipe.serve.engine)
        yield "baseline" if recipe.student else f"{name}-baseline", served, shape
        yield name, served, shape


def _shapes(recipe: Recipe) -> list[Shape]:
    """Of every model whose size is known."""
    found = [origins.of_teacher(t).shape for t in recipe.all_teachers().values()]
    found += [origins.of_student(s, recipe.teacher).shape for s in recipe.all_students().values()]
    return [shape for shape in found if shape and shape.parameters]


def _share(recipe: Recipe, number: int) -> Span:
    """Of the prompts, what the so-manieth teacher is asked."""
    if isinstance(recipe.route, ByColumn):
        return Span(0, 1 / len(recipe.all_teachers()), 1)
    return NEXT if recipe.route == "cascade" and number else Span.exact(1)


def _start(engine: Engine) -> float:
    return START_S[engine.device.gpu] + (engine.weights * engine.devices / LOADED if engine.device.gpu else 0)


def _holds(engine: Engine) -> str:
    """The memory of one device of an engine."""
    cache = engine.batch * engine.row / engine.devices
    parts = f"{engine.weights / 1e9:.2g} GB of weights and {cache / 1e9:.2g} of cache"
    return f"each {engine.device.name} holds {parts} of {engine.device.memory / 1e9:.0f} GB"


def _spread(devices: int, per_node: int) -> str:
    if devices <= per_node:
        return f"tensor_parallel: {devices}"
    return f"tensor_parallel: {per_node}, pipeline_parallel: {devices // per_node}"

"""plan --check: what reads weights' tokenizers, stores and the machine before time and money are spent."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from raystill import artifacts, chat, engine, losses, models, origins, pitfalls, sources, storage
from raystill.artifacts import Table
from raystill.compatibility import TERMS, VENDORS, Pair, Side, pair
from raystill.errors import RaystillError
from raystill.origins import Origin
from raystill.planning import Plan
from raystill.recipe import Cut, Lora, Recipe, Student, Teacher
from raystill.records import Message, Prompt
from raystill.teachers import endpoint, tokens

PROBE_ROWS = 200
"""Prompts whose length is checked: enough to see a systematic mistake, a second of tokenising."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `problem` is None when it is well; a `note` asks for nothing, or for a thought."""

    what: str
    problem: str | None
    note: str | None = None


def examine(plan: Plan) -> Iterator[Finding]:
    """Look at everything, one finding each; nothing is raised for what the user can mend."""
    recipe = plan.recipe
    if recipe is None:
        return
    yield _look("store refuses a second writer of one name", storage.probe, recipe.root)
    for name in _paths(recipe):
        yield _look(f"data {name} can be read", _readable, name)
    for role, model in _models(recipe):
        yield _look(f"{role} {model}: tokenizer, chat template, stop token", _tokenizer, model, recipe.root)
        yield _look(f"{role} {model}: prompts fit its context", _fit, plan, role, model)
        yield from _spoilers(recipe, role, model)
    for name, teacher in recipe.all_teachers().items():
        if teacher.endpoint:
            what = f"{name}: {teacher.endpoint.url} takes the key and answers as {teacher.endpoint.model}"
            yield _look(what, endpoint.probe, teacher)
        if terms := _terms(teacher):
            yield Finding(f"{name}: what may be made of its answers", None, terms)
    for name, student in recipe.all_students().items():
        train = recipe.train_for(student)
        own = student.init.from_ if isinstance(student.init, Cut) else student.model
        if recipe.teacher.model and recipe.rounds_of(student):
            yield _look(f"{name}'s own text can be scored: one tokenizer", _same_tokens, plan, own)
        if train.teacher == "live" and recipe.teacher.model:
            yield _look(f"{name} sits beside its teacher: one tokenizer", _same_tokens, plan, own)
        elif train.loss.kind != losses.TEXT and recipe.teacher.model:
            yield _look(f"{name} reads the teacher's soft targets: tokens in common", _common_tokens, plan, own)
        if train.lora:
            yield _look(f"{name}: what LoRA trains beside", _adapted, plan, student, train.lora)


def _look(what: str, act: Callable[..., object], *arguments: Any) -> Finding:
    try:
        act(*arguments)
    except RaystillError as e:
        return Finding(what, str(e))
    return Finding(what, None)


def _paths(recipe: Recipe) -> list[str]:
    groups = (recipe.data.train, recipe.data.validation, recipe.data.test)
    return [p for group in groups for p in ([group] if isinstance(group, str) else group or [])]


def _terms(teacher: Teacher) -> str | None:
    """What a teacher's licence, or the terms of who answers for it, say of models trained on its answers."""
    if teacher.endpoint:
        host = urlsplit(teacher.endpoint.url).hostname or ""
        known = VENDORS.get(host, f"the terms of {host} decide, which raystill does not know")
        return f"{known}; read them, and ask who answers for your contract"
    shape = origins.of_teacher(teacher).shape
    terms = TERMS.get(shape.licence or "") if shape else None
    return f"licence {shape.licence}: {terms}; say so in the student's model card" if shape and terms else None


def _readable(path: str) -> None:
    if not sources.is_hub_id(path):
        sources.find(path)


def _models(recipe: Recipe) -> Iterator[tuple[str, str]]:
    for name, teacher in recipe.all_teachers().items():
        if teacher.model:
            yield name, teacher.model
    for name, student in recipe.all_students().items():
        model = student.init.from_ if isinstance(student.init, Cut) else student.model
        if model and model != "teacher":
            yield name, model


def _tokenizer(model: str, root: str) -> None:
    folder = models.resolve(model, root, offline=False).papers()
    tokenizer = chat.load_tokenizer(folder)
    turns = [Message("user", "Hello."), Message("assistant", "Hello to you.")]
    chat.encode(tokenizer, turns, [1])


def _spoilers(recipe: Recipe, role: str, model: str) -> Iterator[Finding]:
    """What would spoil an answer or a training without an error."""
    student = recipe.all_students().get(role)
    try:
        seen = pitfalls.look(models.resolve(model, recipe.root, offline=False).papers())
        remarks = list(pitfalls.of_model(seen, student is not None))
        if student:
            train = recipe.train_for(student)
            chosen = "max_length" in student.train or "max_length" in recipe.train.model_fields_set
            remarks += [found] if (found := pitfalls.length(seen, train.max_length, chosen)) else []
            if recipe.teacher.model and recipe.teacher.model != model:
                teacher = pitfalls.look(models.resolve(recipe.teacher.model, recipe.root, offline=False).papers())
                remarks += [found] if (found := pitfalls.one_stop(teacher, seen)) else []
    except RaystillError:
        return  # a tokenizer that cannot be read was told before
    what = f"{role} {model}: its stop token, template, vocabulary and head go together"
    if not remarks:
        yield Finding(what, None)
    for remark in remarks:
        yield Finding(what, remark.text if remark.wrong else None, None if remark.wrong else remark.text)


def pairs(plan: Plan) -> Iterator[Pair]:
    """The teacher beside each student: what they have in common, and what can be learnt from it."""
    recipe = plan.recipe
    if recipe is None:
        return
    teacher = recipe.teacher
    with_weights = bool(teacher.model or teacher.recipe)
    theirs = _side("teacher", origins.of_teacher(teacher), with_weights, recipe.root)
    for name, student in recipe.all_students().items():
        yield pair(theirs, _side(name, origins.of_student(student, teacher), True, recipe.root))


def _side(role: str, origin: Origin, weights: bool, root: str) -> Side:
    """A model of the table. One that is not at hand keeps what its shape tells."""
    try:
        folder = models.resolve(origin.model, root, offline=False).papers() if origin.model else None
        tokenizer = chat.load_tokenizer(folder) if folder else None
    except RaystillError:
        tokenizer = None
    if tokenizer is None:
        return Side(role, origin.model, weights, origin.shape)
    ids, template = chat.fingerprint(tokenizer), chat.template_hash(tokenizer)
    return Side(role, origin.model, weights, origin.shape, tokenizer.get_vocab(), ids, template)


def _tokenizers(plan: Plan, student: str) -> tuple[chat.Tokenizer, chat.Tokenizer] | None:
    """The teacher's and the student's where they differ."""
    recipe = plan.recipe
    teacher = recipe.teacher.model if recipe else None
    if recipe is None or teacher is None or student in ("teacher", teacher):
        return None
    theirs, ours = (
        chat.load_tokenizer(models.resolve(m, recipe.root, offline=False).papers()) for m in (teacher, student)
    )
    return None if chat.fingerprint(theirs) == chat.fingerprint(ours) else (theirs, ours)


def _same_tokens(plan: Plan, student: str) -> None:
    """Raise when a live teacher's tokenizer is another one than the student's."""
    if _tokenizers(plan, student):
        raise RaystillError(
            f"a live teacher is compared token by token, and {student} has another tokenizer; take train: {{teacher: stored}} "
            "with score: {k: 50}, which maps the teacher's tokens to the student's"
        )


def _common_tokens(plan: Plan, student: str) -> None:
    """Raise when no token of the teacher's stands for one of the student's."""
    if (found := _tokenizers(plan, student)) is None:
        return
    theirs, ours = map(tokens.of, found)
    if not theirs.numbers().keys() & ours.numbers().keys():
        raise RaystillError(
            f"none of the teacher's {len(theirs.text)} tokens is known to stand for the same text as one of {student}'s, so "
            f"nothing of its soft targets could be carried over; take loss: {{kind: {losses.TEXT}}}, which learns from text"
        )


def _adapted(plan: Plan, student: Student, lora: Lora) -> None:
    """Raise when LoRA's targets are no layers of the student."""
    from raystill.training import adapters

    own = student.init.from_ if isinstance(student.init, Cut) else student.model
    teacher = plan.recipe.teacher.model if plan.recipe else None
    model = teacher if own == "teacher" else own
    if plan.recipe and model:
        adapters.targets(adapters.blank(models.resolve(model, plan.recipe.root, offline=False).papers()), lora)


def _fit(plan: Plan, role: str, model: str) -> None:
    """Raise when prompts already prepared are longer than the model's context."""
    recipe = plan.recipe
    prepared = next((s for s in plan.steps if s.label == "prepare" and s.state == "done"), None)
    if recipe is None or prepared is None:
        return
    table = artifacts.load(Table, prepared.url)
    folder = models.resolve(model, recipe.root, offline=False).papers()
    teacher = recipe.all_teachers().get(role)
    tokenizer = chat.load_tokenizer(folder)
    told = teacher.engine if teacher else recipe.serve.engine
    by_vllm = teacher is None or teacher.kind == "vllm"
    context = engine.context_tokens(folder, told) if by_vllm else engine.context_length(folder)
    system = teacher.system if teacher else recipe.all_students()[role].system
    examples, arguments = (teacher.examples, teacher.chat_template_kwargs) if teacher else ([], {})
    rows = list(itertools.islice(table.rows(Prompt), PROBE_ROWS)) if table else []
    if long := chat.too_long(tokenizer, rows, system, examples, arguments, context):
        raise RaystillError(
            f"{len(long)} of {len(rows)} prompts do not fit {model}'s context of {context} tokens, first {long[0]}; "
            "shorten the system prompt or examples, or choose a model with a longer context"
        )

"""Running, serving and chatting from a terminal: the line with its live view, its log and Ctrl-C."""

import contextlib
import datetime
import functools
import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from raystill import artifacts, pipeline, planning, recipe_file, storage
from raystill.artifacts import Checkpoint
from raystill.browse import newest
from raystill.context import Context
from raystill.errors import Interrupted, ModelError, RaystillError, RecipeError, StageError
from raystill.models import resolve
from raystill.noise import engine_log, telling_lines
from raystill.recipe import Recipe
from raystill.recipe_file import RecipeProblems
from raystill.reporting import gate
from raystill.reporting.search import named
from raystill.reporting.table import next_steps, summary_table
from raystill.view import Lines, Screen, view

FOLLOW_S = 5.0
"""Seconds between two looks for what a run has made since."""
Elsewhere = Callable[[Lines | Screen, threading.Event, str], None]
"""Makes a stage on a cluster of its own: whom to tell, what is set when it shall stop, and the stage's name."""


def run(
    path: str,
    *,
    compute: str | None = None,
    only: str | None = None,
    retry_rejected: bool = False,
    elsewhere: Elsewhere | None = None,
) -> str:
    """Run a recipe with a live view and return what to print at the end. Mistakes found offline stop it at once."""
    planned = planning.plan(path, compute)
    if planned.problems or planned.recipe is None:
        raise RecipeProblems(planned.problems)
    waiting = [s.label for s in planned.steps if s.state != "done"] if only is None else []
    with _shown(planned.recipe, waiting) as (progress, stopping):
        make = elsewhere and functools.partial(elsewhere, progress, stopping)
        folder = pipeline.run(path, progress, stopping, compute, only, retry_rejected, make)
    if folder is None:
        return f"{only} is done; see it with: raystill status {path}"
    report = json.loads(storage.read(storage.join(folder, "report.json")))
    return f"\n{summary_table(report)}\n\n{next_steps(path, folder)}"


def beside(path: str, other: str) -> str:
    """A recipe's last report beside that of another, which stands first: what to print, and where the page is."""
    from raystill.reporting import beside as told
    from raystill.stages import report

    recipes = [recipe_file.load(at).recipe for at in (other, path)]
    (first, rows), (second, more) = (report.read(recipe) for recipe in recipes)
    found = told.beside(first, second, (rows, more), recipes[1].evaluate.resamples)
    at = storage.join(recipes[1].root, "reports", recipes[1].name, f"beside-{recipes[0].name}.html")
    storage.write(at, told.page(found).encode())
    return f"{told.text(found)}\npage: {at}"


def exit_code(path: str) -> int:
    """What the gate of a recipe's last report says to the shell: 0 also without a gate."""
    recipe = recipe_file.load(path).recipe
    report = json.loads(storage.read(storage.join(recipe.root, "reports", recipe.name, "report.json")))
    return gate.EXIT_CODES[report["gate"]["verdict"]] if report["gate"] else 0


def tune(path: str, *, out: str | None = None, compute: str | None = None) -> str:
    """Search a recipe's values with a live view and return what to print at the end."""
    from raystill import tuning

    planned = planning.plan(path, compute)
    if planned.problems or planned.recipe is None:
        raise RecipeProblems(planned.problems)
    with _shown(planned.recipe) as (progress, stopping):
        made = tuning.tune(path, out, progress, stopping, compute)
    return f"\nbest: {named(made.best.values)}\npage: {made.page}\nnow type: raystill run {made.recipe}"


def measure(path: str, name: str) -> tuple[dict[str, float], list[str]]:
    """The metrics of one model of a finished run on the recipe's held-out rows, and why others are absent.

    Raises RecipeError for a model that the run has not.
    """
    from raystill.stages import report

    recipe = recipe_file.load(path).recipe
    models, _ = _checkpoints(recipe, _newest(path, recipe, [name]))
    with _shown(recipe) as (progress, stopping):
        made = pipeline.measure(recipe, name, models[name], progress, stopping)
    return report.metrics(recipe, made, name)


def threshold(path: str, accuracy: float) -> str:
    """Measure from which probability on a student's answers are good enough, and say it."""
    from raystill import threshold as cascade

    recipe = recipe_file.load(path).recipe
    models, _ = _checkpoints(recipe, _newest(path, recipe, ()))
    with _shown(recipe) as (progress, stopping):
        found = cascade.threshold(recipe, models, accuracy, progress, stopping)
    return f"\n{found.text()}"


def serve(path: str, port: int | None, only: Sequence[str] = (), follow: bool = False) -> None:
    """Host a recipe's models, or some of them, until Ctrl-C, printing how to ask them; `follow` changes them when a run has
    made new ones."""
    recipe = recipe_file.load(path).recipe
    made = _newest(path, recipe, only)
    with (
        _shown(recipe) as (progress, stopping),
        _hosting(recipe, progress, stopping) as context,
        _served(path, recipe, made, context, port, follow, pipeline.routing(recipe, made)) as endpoint,
    ):
        from raystill.stages.serve import usage

        progress.say(usage(endpoint, list(endpoint.models)[-1]))
        while not stopping.wait(FOLLOW_S if follow else None):
            with _answering_on(progress):
                before, made = made, _newest(path, recipe, only)
                if made != before:
                    endpoint = _changed(path, recipe, made, context, endpoint)


@contextlib.contextmanager
def _answering_on(progress: Lines | Screen) -> Iterator[None]:
    """Say why a change failed, and leave what is hosted: it is not tried again."""
    try:
        yield
    except Interrupted:
        raise
    except RaystillError as e:
        progress.say(f"{e}\nwhat was hosted before answers on")


def _changed(path: str, recipe: Recipe, made: Mapping[str, str], context: Context, endpoint: Any) -> Any:
    from raystill.stages import serve as stage

    models, own = _checkpoints(recipe, made)
    changed = stage.replace(endpoint, models, recipe.serve, context, own=own, run=newest(recipe, path))
    context.progress.say(f"now hosting what the newest run made: {', '.join(made)}")
    return changed


def chat(path: str, model: str, url: str | None) -> None:
    """Talk to one model: lines from standard input, answers as they stream. An empty line ends it."""
    import asyncio

    recipe = recipe_file.load(path).recipe
    if url:
        asyncio.run(_converse(url, os.environ.get("RAYSTILL_API_KEY"), model, recipe, sys.stdout))
        return
    made = _newest(path, recipe, [model])
    with (
        _shown(recipe) as (progress, stopping),
        _hosting(recipe, progress, stopping) as context,
        _served(path, recipe, made, context, 0) as endpoint,
    ):
        out = progress.live.console.file if isinstance(progress, Screen) else progress.out
        if isinstance(progress, Screen):
            progress.live.stop()
        asyncio.run(_converse(endpoint.base_url, endpoint.key, model, recipe, out))


async def _converse(url: str, key: str | None, model: str, recipe: Recipe, out: Any) -> None:
    from raystill.chat import view as viewed
    from raystill.client import Client, RequestFailed
    from raystill.records import Message

    system, examples = pipeline.view_of(recipe, model)
    said: list[Message] = []
    async with Client(url, key) as client:
        out.write(f"talking to {model}; an empty line ends it\n")
        while question := _asked(out):
            said.append(Message("user", question))
            pieces = []
            try:
                async for piece in client.stream(model, viewed(said, system, examples), recipe.evaluate.max_tokens):
                    pieces.append(piece)
                    out.write(piece)
                    out.flush()
            except RequestFailed as e:
                raise RaystillError(
                    f"{model} did not answer: {e}; is it served there, and does the text fit its context?"
                ) from e
            out.write("\n")
            said.append(Message("assistant", "".join(pieces)))


def _asked(out: Any) -> str:
    out.write("> ")
    out.flush()
    return sys.stdin.readline().strip()


def models_of(recipe: Recipe, known: Mapping[str, str]) -> dict[str, str]:
    """Of a recipe's newest artifacts (name to URL) those that are models; answers and loads have a model's name below."""
    return {name: url for name, url in known.items() if name in recipe.model_names()}


def _newest(path: str, recipe: Recipe, only: Sequence[str]) -> dict[str, str]:
    """Where the models of the newest run lie, or those that are asked for. Raises RecipeError for one that is not there."""
    there = models_of(recipe, newest(recipe, path))
    if gone := set(only) - set(there):
        raise RecipeError(f"no model '{', '.join(sorted(gone))}'; there are: {', '.join(there)}")
    return {name: url for name, url in there.items() if not only or name in only}


def _checkpoints(recipe: Recipe, made: Mapping[str, str]) -> tuple[dict[str, Checkpoint], dict[str, dict[str, Any]]]:
    """Models by name, and what each one's engine is told beyond the recipe's serve.engine."""
    models = {
        name: artifacts.load(Checkpoint, url) or resolve(url, recipe.root, offline=False) for name, url in made.items()
    }
    return models, {name: pipeline.served_as(recipe, name) for name in made}


@contextlib.contextmanager
def _hosting(recipe: Recipe, progress: Lines | Screen, stopping: threading.Event) -> Iterator[Context]:
    """Ray, and what a stage is told besides."""
    from raystill.session import ray_session

    with tempfile.TemporaryDirectory(prefix="raystill-") as scratch, ray_session(recipe.compute) as ensure_ray:
        ensure_ray()
        yield Context("", recipe.compute, progress, recipe.max_error_rate, Path(scratch), stopping)


@contextlib.contextmanager
def _served(
    path: str,
    recipe: Recipe,
    made: Mapping[str, str],
    context: Context,
    port: int | None,
    changes: bool = False,
    routing: Mapping[str, Any] = {},
) -> Iterator[Any]:
    from raystill.stages import serve as stage

    models, own = _checkpoints(recipe, made)
    finish_s = recipe.serve.timeout_s if changes else stage.STOP_S
    page, run = pipeline.playground(recipe, made), newest(recipe, path)
    with stage.serve(
        models, recipe.serve, context, own=own, port=port, finish_s=finish_s, page=page, run=run, routing=routing
    ) as endpoint:
        yield endpoint


@contextlib.contextmanager
def _shown(recipe: Recipe, waiting: Sequence[str] = ()) -> Iterator[tuple[Lines | Screen, threading.Event]]:
    """The live view, the log of the engines' noise, and Ctrl-C: once is graceful, twice is at once."""
    folder = Path(tempfile.gettempdir(), "raystill") if storage.is_s3(recipe.root) else Path(recipe.root)
    log = folder / "logs" / f"{recipe.name}-{datetime.datetime.now():%Y%m%d-%H%M%S}.log"
    stopping = threading.Event()
    with engine_log(log) as terminal, view(terminal, waiting) as progress, _ctrl_c(stopping, progress):
        progress.say(f"log: {log}")
        try:
            yield progress, stopping
        except Interrupted:
            raise
        except RaystillError as e:
            e.add_note(f"in stage: {progress.current()}")
            if isinstance(e, StageError | ModelError):
                e.add_note(_log_says(log))
            raise
        except Exception as e:
            words = str(e).strip().splitlines()
            unforeseen = RaystillError(f"{type(e).__name__}: {words[-1] if words else 'no more is known'}")
            unforeseen.add_note(f"in stage: {progress.current()}; nobody foresaw this one, please report it")
            unforeseen.add_note(_log_says(log))
            raise unforeseen from e


def _log_says(log: Path) -> str:
    """The log's last telling lines, and where it is."""
    return "\n  ".join([f"the log ({log}) says:", *telling_lines(log)])


@contextlib.contextmanager
def _ctrl_c(stopping: threading.Event, progress: Lines | Screen) -> Iterator[None]:
    """Ctrl-C, and SIGTERM, by which Kubernetes takes a driver's machine away."""

    def first(_signal: int, _frame: Any) -> None:
        stopping.set()
        progress.say("stopping cleanly; Ctrl-C again stops at once")
        for number in before:
            signal.signal(number, signal.default_int_handler)

    before = {number: signal.signal(number, first) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

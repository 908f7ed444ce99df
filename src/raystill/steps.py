"""A step of the line: one artifact to be, what decides it, and how to make it. The Runner makes what is missing."""

import contextlib
import datetime
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from raystill import artifacts, storage
from raystill.artifacts import Artifact, Manifest, Outcome
from raystill.context import Context, Progress
from raystill.errors import Interrupted, RecipeError, StageError
from raystill.meter import Meter
from raystill.models import UNRESOLVED
from raystill.provenance import provenance
from raystill.recipe import Recipe

A = TypeVar("A", bound=Artifact)


@dataclass(frozen=True)
class Step(Generic[A]):
    """One artifact to be."""

    label: str
    stage: str
    version: int
    decides: Mapping[str, Any]
    inputs: Mapping[str, Artifact | None]
    kind: type[A]
    make: Callable[[Context], Outcome]
    ray: bool = False
    """Whether making it needs Ray."""

    @property
    def fingerprint(self) -> str:
        """The address of its artifact; UNRESOLVED while an input's identity is not known."""
        prints = {name: a.fingerprint for name, a in self.inputs.items() if a is not None}
        if UNRESOLVED in prints.values():
            return UNRESOLVED
        return artifacts.fingerprint(self.stage, self.version, self.decides, prints)

    def url(self, root: str) -> str:
        """The folder of its artifact."""
        return storage.join(root, self.stage, self.fingerprint)


class Do(Protocol):
    """Who carries out the line: the Runner makes steps, plan only names them."""

    root: str
    offline: bool
    retry_rejected: bool

    @property
    def machines_usd(self) -> float:
        """What machines have cost so far."""

    def __call__(self, step: Step[A]) -> A:
        """The step's artifact."""

    def done(self, step: Step[Any]) -> bool:
        """Whether its artifact is there."""


ONLY: dict[str, tuple[str, ...]] = {
    "prepare": ("prepare",),
    "generate": ("route", "generate"),
    "curate": ("curate", "mix"),
    "score": ("score",),
    "train": ("initialize", "train"),
    "evaluate": ("answer", "load", "suite", "judge"),
    "report": (),
}
"""What --only may name, and the stages whose missing steps it then makes."""


class StageDone(Exception):
    """The stages of --only are made and the next step is none of them."""


class Runner:
    """Makes missing artifacts, one step after another; finished ones are loaded."""

    offline = False

    def __init__(
        self,
        recipe: Recipe,
        progress: Progress,
        stopping: threading.Event,
        ensure_ray: Callable[[], None],
        scratch: Path,
        only: str | None = None,
        retry_rejected: bool = False,
        elsewhere: Callable[[str], None] | None = None,
        meter: Meter | None = None,
    ) -> None:
        self.recipe, self.root = recipe, recipe.root
        self.progress, self.stopping, self.ensure_ray, self.scratch = progress, stopping, ensure_ray, scratch
        if only is not None and only not in ONLY:
            raise RecipeError(f"--only takes {', '.join(ONLY)}, not '{only}'")
        self.only, self.reached, self.retry_rejected = only, False, retry_rejected
        self.meter = meter or Meter(recipe, stopping)
        self.elsewhere = elsewhere
        """Makes a stage that needs Ray on a cluster of its own; without it, Ray runs here or where RAY_ADDRESS says."""

    @property
    def machines_usd(self) -> float:
        """What machines have cost so far."""
        return self.meter.machines_usd

    def done(self, step: Step[Any]) -> bool:
        """Whether its artifact is there."""
        return storage.exists(storage.join(step.url(self.root), artifacts.MANIFEST))

    def __call__(self, step: Step[A]) -> A:
        """Load the step's artifact, or make and commit it. Raises OverBudget before and within a step."""
        try:
            made = self._made(step)
        except (Interrupted, StageError):
            # Interrupted by the meter, or by one that counts in a cluster of the stage's own.
            self.meter.read()
            self.meter.refuse()
            raise
        self.meter.paid[made.url] = made.counts.get("cost", 0.0)
        return made

    def _made(self, step: Step[A]) -> A:
        url = step.url(self.root)
        wanted = self.only is None or step.stage in ONLY[self.only]
        self.reached |= wanted
        if (there := artifacts.load(step.kind, url)) is not None:
            return there
        if not wanted and self.reached:
            raise StageDone
        if not wanted:
            raise RecipeError(
                f"--only {self.only} needs the result of '{step.label}'; run without --only, or that stage first"
            )
        self.meter.refuse()
        if step.ray and self.elsewhere:
            self.elsewhere(next(name for name, parts in ONLY.items() if step.stage in parts))
            if (there := artifacts.load(step.kind, url)) is None:
                raise StageError(f"the cluster of '{step.label}' ended, and its result is not at {url}; see its log")
            return there
        if step.ray:
            self.ensure_ray()
        started_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=self.scratch) as scratch:
            outcome = step.make(
                Context(
                    url,
                    self.recipe.compute,
                    self.progress,
                    self.recipe.max_error_rate,
                    Path(scratch),
                    self.stopping,
                    step.label,
                )
            )
        made = {"started_at": started_at, "elapsed_s": round(time.perf_counter() - started, 3)}
        manifest = Manifest(
            kind=outcome.kind,
            schema=outcome.schema,
            stage=step.stage,
            version=step.version,
            fingerprint=step.fingerprint,
            config=dict(step.decides),
            inputs={name: a.fingerprint for name, a in step.inputs.items() if a is not None},
            files=list(outcome.files),
            counts=dict(outcome.counts),
            facts=dict(outcome.facts),
            provenance=provenance() | made,
        )
        return artifacts.commit(step.kind, url, manifest)


T = TypeVar("T")


@contextlib.contextmanager
def on_demand(enter: Callable[[Context], contextlib.AbstractContextManager[T]]) -> Iterator[Callable[[Context], T]]:
    """Yield a function whose first call enters the context manager; it is left at the end, if it was entered."""
    with contextlib.ExitStack() as stack:
        entered: list[T] = []

        def get(context: Context) -> T:
            if not entered:
                entered.append(stack.enter_context(enter(context)))
            return entered[0]

        yield get

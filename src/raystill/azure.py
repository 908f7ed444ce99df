"""Azure's calls over raystill's own: jobs that run a recipe in the background, and models measured on test data.

    client = raystill.Client.from_config()
    job = client.jobs.create_or_update(raystill.DistillationJob(…))
    client.jobs.get(job.name).status
    client.models.evaluate("phi-4-mini-distilled", "test.jsonl")["accuracy"]

docs/azure.md has each call beside Azure's, and what differs.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml

from raystill import planning, storage
from raystill.background import Background
from raystill.distillation_job import MODELS, DistillationJob, alias, over, slug
from raystill.errors import RecipeError, StageError
from raystill.recipe_file import RecipeProblems

CONFIG = "raystill.yaml"
JOBS, RECIPE, CANCELED = "jobs", "recipe.yaml", "canceled"
KINDS = {"distilled": "student", "baseline": "baseline", "teacher": "teacher"}
"""What follows a student's name, and the model that it means."""
METRICS = {"bleu_score": "bleu", "inference_time": "seconds_per_answer"}
"""Azure's names of metrics, and raystill's; all others are called alike."""


@dataclass(frozen=True)
class Job:
    """A job as it is now. `status` is one of Azure's: NotStarted, Running, CancelRequested, Canceled, Completed, Failed."""

    name: str
    status: str
    recipe: str
    """Its file: `raystill plan`, `run`, `serve` and all other commands take it."""


class Results(dict[str, float]):
    """Metrics by name. One that the rows do not give says why when it is asked for."""

    def __init__(self, values: Mapping[str, float], notes: Sequence[str]) -> None:
        super().__init__(values)
        self.notes = list(notes)

    def __missing__(self, name: str) -> float:
        why = f"; {'; '.join(self.notes)}" if self.notes else ""
        raise RecipeError(f"there is no metric '{name}' here; there are {', '.join(self)}{why}")


class Runs(Protocol):
    """Where jobs run: this machine, or a cluster. Each is known by its recipe's file."""

    def start(self, recipe: Path) -> None: ...
    def state(self, recipe: Path) -> str: ...
    def follow(self, recipe: Path, say: Callable[[str], None]) -> None: ...
    def cancel(self, recipe: Path) -> None: ...


@dataclass(frozen=True)
class Client:
    """Jobs and models of one root. `defaults` are keys of every job's recipe: root, compute, prices, train …"""

    defaults: Mapping[str, Any] = field(default_factory=dict)
    runs: Runs = field(default_factory=Background)

    @classmethod
    def from_config(cls, path: str = CONFIG) -> "Client":
        """With the defaults of a YAML file; without any when the default file is not there."""
        if not Path(path).is_file():
            if path != CONFIG:
                raise RecipeError(
                    f"{path} does not exist; leave it out, or write keys of a recipe there, such as root: runs"
                )
            return cls()
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        if not isinstance(values, dict):
            raise RecipeError(f"{path} must be a map of keys of a recipe, such as root: runs")
        return cls(values)

    @property
    def folder(self) -> Path:
        """Where jobs are noted: beside their artifacts, or in ./runs when those are in a store."""
        root = str(self.defaults.get("root", "runs"))
        return Path("runs" if storage.is_s3(root) else root) / JOBS

    @property
    def jobs(self) -> "Jobs":
        """Its jobs."""
        return Jobs(self)

    @property
    def models(self) -> "Models":
        """Its jobs' models."""
        return Models(self)


@dataclass(frozen=True)
class Jobs:
    """Starting, looking at and ending jobs."""

    client: Client

    def create_or_update(self, job: DistillationJob) -> Job:
        """Start a job in the background, or let it go on; what is finished is reused, also after a change.

        Raises RecipeProblems with every mistake, RecipeError while the same name runs with another recipe.
        """
        runs, path = self.client.runs, self.client.folder / job.name / RECIPE
        text = yaml.safe_dump(job.recipe(self.client.defaults), sort_keys=False)
        if path.is_file() and path.read_text(encoding="utf-8") != text and runs.state(path) == "Running":
            raise RecipeError(f"{job.name} runs already with another recipe; cancel it, or give this job another name")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        if found := planning.plan(str(path)).problems:
            raise RecipeProblems(found)
        path.with_name(CANCELED).unlink(missing_ok=True)
        runs.start(path)
        return self.get(job.name)

    def get(self, name: str) -> Job:
        """A job as it is now. Raises RecipeError for one that is not known."""
        path = self._recipe(name)
        status = self.client.runs.state(path)
        if path.with_name(CANCELED).exists() and status != "Completed":
            status = "CancelRequested" if status == "Running" else "Canceled"
        return Job(name, status, str(path))

    def list(self) -> list[Job]:
        """All jobs, the newest last."""
        noted = sorted(self.client.folder.glob(f"*/{RECIPE}"), key=lambda path: path.stat().st_mtime)
        return [self.get(path.parent.name) for path in noted]

    def stream(self, name: str, say: Callable[[str], None] = print) -> None:
        """Tell what a job says until it ends. Raises StageError when it did not complete."""
        path = self._recipe(name)
        self.client.runs.follow(path, say)
        if (status := self.get(name).status) != "Completed":
            raise StageError(f"job {name} is {status}; its recipe and log are in {path.parent}")

    def cancel(self, name: str) -> Job:
        """Ask a job to stop; what is finished stays, and create_or_update goes on from there."""
        path = self._recipe(name)
        path.with_name(CANCELED).touch()
        self.client.runs.cancel(path)
        return self.get(name)

    def _recipe(self, name: str) -> Path:
        path = self.client.folder / name / RECIPE
        if not path.is_file():
            there = sorted(found.parent.name for found in self.client.folder.glob(f"*/{RECIPE}"))
            raise RecipeError(f"there is no job '{name}'; there are: {', '.join(there) or 'none'}")
        return path


@dataclass(frozen=True)
class Models:
    """Models of finished jobs: STUDENT-distilled, STUDENT-baseline and STUDENT-teacher, by the job's name or the student's."""

    client: Client

    def evaluate(self, model_name: str, test_data: str, metrics: Sequence[str] | None = None) -> Results:
        """A model's metrics on rows of their own: those asked for, or all. `inference_time` is in seconds, at one request
        at a time.

        Raises RecipeError for a model that is not known, and for a metric that the rows do not give.
        """
        from raystill import live

        job, model = self._find(model_name)
        values = yaml.safe_load(Path(job.recipe).read_text(encoding="utf-8"))
        asked = over(values, {"data": {"test": test_data}, "evaluate": {"split": "test", "load": [1]}})
        path = Path(job.recipe).with_name("evaluate.yaml")
        path.write_text(yaml.safe_dump(asked, sort_keys=False), encoding="utf-8")
        found, notes = live.measure(str(path), model)
        named = {next((a for a, ours in METRICS.items() if ours == name), name): value for name, value in found.items()}
        results = Results(named, notes)
        return results if metrics is None else Results({name: results[name] for name in metrics}, notes)

    def _find(self, name: str) -> tuple[Job, str]:
        """The newest job with this model, and what its recipe calls it."""
        of, _, kind = name.rpartition("-")
        jobs = list(reversed(self.client.jobs.list())) if kind in KINDS else []
        for job in jobs:
            if slug(of) in (job.name, *_student(job)):
                if job.status != "Completed":
                    raise RecipeError(
                        f"job {job.name}, whose model {name} is, is {job.status}; client.jobs.stream('{job.name}')"
                    )
                return job, KINDS[kind]
        there = [f"{_student(job)[0]}-{kind}" for job in self.client.jobs.list() for kind in KINDS]
        raise RecipeError(f"there is no model '{name}'; there are: {', '.join(there) or 'none before a job has run'}")


def _student(job: Job) -> list[str]:
    """The short names of a job's student: its aliases, and the last part of its folder or hub id."""
    model = yaml.safe_load(Path(job.recipe).read_text(encoding="utf-8"))["student"]["model"]
    return [*(slug(short) for short, known in MODELS.items() if known == model), slug(alias(model))]

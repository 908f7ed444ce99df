"""What a recipe's `serve` says beside hosting: who may answer under one name, who is compared, what is kept. No Ray."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from raystill import artifacts, recipe, tasks
from raystill.artifacts import Table
from raystill.errors import ResourceError, StorageError
from raystill.metrics.compare import TEACHER
from raystill.recipe import Capture, Fallback, Prices, Turn

View = tuple[str | None, list[Turn]]


@dataclass(frozen=True)
class Routing:
    """All of it, off by default. `arms` are the shares of the public name by model, of which `student` has the teacher behind
    it where there is a `fallback`; `views` say how the run asked each model: its system prompt and its examples."""

    public_name: str = ""
    arms: Mapping[str, float] = field(default_factory=dict)
    student: str = ""
    fallback: Fallback | None = None
    compare: bool = False
    capture: Capture | None = None
    views: Mapping[str, View] = field(default_factory=dict)
    task: tasks.Task | None = None
    reads: bool = False
    """Whether the task reads a label or a value out of an answer."""
    prices: Prices = field(default_factory=Prices)

    @classmethod
    def of(cls, told: Mapping[str, Any], hosted: Collection[str], prompts: str) -> "Routing":
        """From pipeline.routing's plain values; `prompts` is the table of the run, whose references the task may need.

        Raises ResourceError for a model that nobody hosts here, StorageError when the prompts are gone.
        """
        asked = {*told["arms"], *([TEACHER] if told["fallback"] else [])}
        if gone := asked - set(hosted):
            raise ResourceError(
                f"serve.canary or serve.fallback asks {', '.join(sorted(gone))}, and only {', '.join(hosted)} are hosted; "
                "host it too, or remove it from the recipe's serve"
            )
        task = recipe.Task.model_validate(told["task"])
        return cls(
            public_name=told["public_name"] if told["arms"] else "",
            arms=told["arms"],
            student=told["student"],
            fallback=told["fallback"] and Fallback.model_validate(told["fallback"]),
            compare=told["compare"],
            capture=told["capture"] and Capture.model_validate(told["capture"]),
            views={
                name: (view["system"], [Turn.model_validate(e) for e in view["examples"]])
                for name, view in told["views"].items()
            },
            task=tasks.load(task, _references(prompts)) if told["compare"] or told["fallback"] else None,
            reads=tasks.reads(task),
            prices=Prices.model_validate(told["prices"]),
        )


def _references(prompts: str) -> set[str]:
    table = artifacts.load(Table, prompts)
    if table is None:
        raise StorageError(f"{prompts} holds no prompts any more, whose labels the task needs; run the recipe again")
    return {r for r in table.column("reference", "train", "validation") if r is not None}

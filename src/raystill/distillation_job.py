"""A distillation in the words of Azure's SDK: models by alias, a task, hyperparameters. It becomes a recipe, nothing else."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from raystill import sources
from raystill.errors import DataError, RecipeError
from raystill.formats import Found
from raystill.recipe import Data
from raystill.starter import REFERENCE_COLUMNS

MODELS = {
    "deepseek-v3": "deepseek-ai/DeepSeek-V3",
    "llama-3.1-405b-instruct": "meta-llama/Llama-3.1-405B-Instruct",
    "llama-3.1-70b-instruct": "meta-llama/Llama-3.1-70B-Instruct",
    "llama-3.1-8b-instruct": "meta-llama/Llama-3.1-8B-Instruct",
    "phi-4-mini": "microsoft/Phi-4-mini-instruct",
    "phi-3.5-mini": "microsoft/Phi-3.5-mini-instruct",
    "phi-3-mini-4k": "microsoft/Phi-3-mini-4k-instruct",
    "phi-3-mini-128k": "microsoft/Phi-3-mini-128k-instruct",
}
"""Aliases; anything else is a folder or a hub id."""
VENDORS = {
    "gpt-": ("https://api.openai.com/v1", "OPENAI_API_KEY"),
    "claude-": ("https://api.anthropic.com/v1", "ANTHROPIC_API_KEY"),
}
"""Teachers that are asked by URL, by how their names begin, with the variable that holds the key."""
TASKS = {
    "nlu_qa": "qa",
    "question_answering": "qa",
    "natural_language_inference": "nli",
    "mathematical_reasoning": "math",
}
HYPERPARAMETERS = {
    "learning_rate": ("train", "learning_rate"),
    "batch_size": ("train", "batch_size"),
    "num_epochs": ("train", "epochs"),
    "temperature": ("teacher", "sampling", "temperature"),
}
"""Each with its place in a recipe."""


@dataclass
class DistillationJob:
    """What to distil, as Azure's notebooks write it. `task_type` is any task of raystill; `name` follows from the models."""

    teacher_model: str
    student_model: str
    training_data: str
    validation_data: str | None = None
    task_type: str = "conversation"
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    def __post_init__(self) -> None:
        self.name = self.name or slug(f"{alias(self.student_model)}-from-{alias(self.teacher_model)}")

    def recipe(self, defaults: Mapping[str, Any]) -> dict[str, Any]:
        """A recipe's values, over those of `defaults`. Raises RecipeError for an unknown hyperparameter."""
        data: dict[str, Any] = {"train": self.training_data, "split": {"test": 0.0}}
        if self.validation_data:
            data["validation"] = self.validation_data
        if column := reference_column(self.training_data):
            data["reference"] = column
        made: dict[str, Any] = {
            "name": self.name,
            "task": TASKS.get(self.task_type.lower(), self.task_type.lower()),
            "data": data,
            "teacher": teacher(self.teacher_model),
            "student": {"model": MODELS.get(self.student_model.lower(), self.student_model)},
            "evaluate": {"split": "validation"},
        }
        for key, value in self.hyperparameters.items():
            if key not in HYPERPARAMETERS:
                raise RecipeError(
                    f"'{key}' is no hyperparameter of a DistillationJob; there are {', '.join(HYPERPARAMETERS)}: everything "
                    "else is a key of the recipe, given to Client as defaults={'train': {…}}"
                )
            *blocks, last = HYPERPARAMETERS[key]
            block = made
            for name in blocks:
                block = block.setdefault(name, {})
            block[last] = value
        return over(defaults, made)


def teacher(model: str) -> dict[str, Any]:
    """A recipe's teacher: weights by alias, folder or hub id, or a vendor's URL."""
    for begins, (url, key) in VENDORS.items():
        if model.lower().startswith(begins):
            return {"kind": "endpoint", "endpoint": {"url": url, "model": model, "key_env": key}}
    return {"model": MODELS.get(model.lower(), model)}


def alias(model: str) -> str:
    """A model's short name: the alias it was called by, or the last part of its folder or hub id."""
    return model.rstrip("/").rpartition("/")[2]


def slug(text: str) -> str:
    """As a recipe's name must be."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-")


def reference_column(path: str) -> str | None:
    """The column of right answers of rows that are no conversations, by its name; None without one, or for what is remote."""
    if not Path(path).is_file():
        return None
    try:
        most = Data.model_fields["max_row_bytes"].default
        first = next(row for row in islice(sources.read(path, "train", most), 10) if isinstance(row, Found))
    except (DataError, StopIteration):
        return None
    there = first.values.keys()
    return None if {"messages", "conversations"} & there else next((c for c in REFERENCE_COLUMNS if c in there), None)


def over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two maps in one, block by block; what `above` says counts."""
    made = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(made.get(key), Mapping)
        made[key] = over(made[key], value) if both else value
    return made

"""Errors meant for the user. Each message says what is wrong, why the rule exists and what to type.

    RaystillError            exit code 1
    ├── RecipeError          the recipe is wrong                         exit code 2
    ├── DataError            the user's data is wrong                    exit code 3
    ├── ModelError           a model folder, tokenizer or pair is wrong  exit code 3
    ├── ResourceError        not enough CPUs, GPUs, ports or disk        exit code 4
    ├── StorageError         a store refuses or has lost something       exit code 5
    │   └── Corrupted        an artifact does not match its checksum
    └── StageError           a stage failed while it ran                 exit code 1
        └── OverBudget       the budget is spent
    Interrupted              Ctrl-C                                      exit code 130

A run that went well ends with 6 when a student misses the recipe's gate, and with 7 when its rows do not decide.

All are picklable: they cross process borders on a cluster.
"""

from dataclasses import dataclass


class RaystillError(Exception):
    """Base of every error whose message is complete without a traceback."""

    exit_code = 1


class RecipeError(RaystillError):
    """The recipe cannot mean what it says."""

    exit_code = 2


class DataError(RaystillError):
    """The user's data cannot be used."""

    exit_code = 3


class ModelError(RaystillError):
    """A model folder, a tokenizer or a pair of models cannot be used."""

    exit_code = 3


class ResourceError(RaystillError):
    """The machine or cluster is too small, or something is taken."""

    exit_code = 4


class StorageError(RaystillError):
    """A store refuses, is missing or is full."""

    exit_code = 5


class Corrupted(StorageError):
    """A stored file does not match the checksum in its manifest."""


class StageError(RaystillError):
    """A stage failed while it ran."""


class OverBudget(StageError):
    """What a paid endpoint may cost has been spent."""


class Interrupted(RaystillError):
    """The user pressed Ctrl-C."""

    exit_code = 130


@dataclass(frozen=True)
class Problem:
    """One mistake found before anything runs: where it is, what is wrong and what to type."""

    where: str
    """`recipe.yaml:12` or a field path where no line is known."""
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}\n    {self.fix}"

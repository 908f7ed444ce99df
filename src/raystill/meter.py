"""What a run has spent on machines, kept under its root, so that a budget holds within a stage, between stages and over
restarts, wherever its parts run.

Each process that makes steps writes a file of its own and reads all of them: nothing is locked, and what a killed process had
written stays.
"""

import contextlib
import json
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field

from raystill import memory, storage
from raystill.errors import OverBudget, StorageError
from raystill.recipe import Recipe

LOOK_S, KEEP_S = 2.0, 30.0
"""Time between two looks at what is held, and between two writings of it: what a killed process may leave uncounted."""
GPUS_OF_A_MACHINE = 8
"""Where the recipe does not say, and this machine has none to count: as clouds rent them."""


@dataclass
class Meter:
    """GPU-hours and hours of machines of one recipe. `paid` is what endpoints have cost it, by step."""

    recipe: Recipe
    stopping: threading.Event
    gpu_hours: float = 0.0
    machine_hours: float = 0.0
    paid: dict[str, float] = field(default_factory=dict)
    name: str = field(default_factory=lambda: f"{uuid.uuid4().hex[:12]}.json")
    before: tuple[float, float] = (0.0, 0.0)
    """GPU-hours and machine-hours of all other processes."""

    @property
    def limited(self) -> bool:
        """Whether there is a budget at all."""
        return self.recipe.budget.gpu_hours is not None or self.recipe.budget.usd is not None

    @property
    def machines_usd(self) -> float:
        """What machines have cost so far."""
        return (self.machine_hours + self.before[1]) * self.recipe.prices.machine_hour

    def refuse(self) -> None:
        """Raise OverBudget when the budget is spent."""
        budget, hours = self.recipe.budget, self.gpu_hours + self.before[0]
        usd = self.machines_usd + sum(self.paid.values())
        for key, spent, most in (("gpu_hours", hours, budget.gpu_hours), ("usd", usd, budget.usd)):
            if most is not None and spent >= most:
                raise OverBudget(
                    f"this run has spent {spent:.4g} of its budget.{key} of {most:g}; what is finished is kept: raise "
                    f"budget.{key} and run the same command to go on"
                )

    def add(self, seconds: float) -> None:
        """Count what is held now for so many seconds: GPUs, or without any this machine; a driver's CPU pod is not counted."""
        gpus, in_cluster = held_gpus(), "kubernetes" in self.recipe.compute.model_fields_set
        per_machine = self.recipe.prices.machine_gpus or len(memory.gpu_sizes()) or GPUS_OF_A_MACHINE
        machines = gpus / per_machine if gpus or in_cluster else 1.0
        self.gpu_hours += gpus * seconds / 3600
        self.machine_hours += machines * seconds / 3600

    def read(self) -> None:
        """What all other processes have written, where there is a budget to hold."""
        if not self.limited:
            return
        files = [e.url for e in storage.entries(self._folder) if not e.url.endswith(self.name)]
        kept = [json.loads(storage.read(url)) for url in files]
        self.before = sum(k["gpu_hours"] for k in kept), sum(k["machine_hours"] for k in kept)

    def keep(self) -> None:
        """Write what this process has counted."""
        said = {"gpu_hours": self.gpu_hours, "machine_hours": self.machine_hours}
        storage.write(storage.join(self._folder, self.name), json.dumps(said).encode())

    @property
    def _folder(self) -> str:
        return storage.join(self.recipe.root, "spent", self.recipe.name)

    def watch(self, ended: threading.Event) -> None:
        """Count until the end; when the budget is spent, ask the stage that runs to stop, as Ctrl-C does."""
        last = kept = time.monotonic()
        while not ended.wait(LOOK_S):
            now = time.monotonic()
            self.add(now - last)
            last = now
            if now - kept > KEEP_S:
                kept = now
                with contextlib.suppress(StorageError):  # a store that is away for a moment; the next time writes all
                    self.keep()
                    self.read()
            try:
                self.refuse()
            except OverBudget:
                self.stopping.set()
        self.add(time.monotonic() - last)


@contextlib.contextmanager
def metered(recipe: Recipe, stopping: threading.Event) -> Iterator[Meter]:
    """A meter that counts in the background where the recipe has a budget. Raises OverBudget when it is spent already."""
    meter = Meter(recipe, stopping)
    if not meter.limited:
        yield meter
        return
    meter.read()
    meter.refuse()
    ended = threading.Event()
    thread = threading.Thread(target=meter.watch, args=(ended,), name="meter", daemon=True)
    thread.start()
    try:
        yield meter
    finally:
        ended.set()
        thread.join()
        meter.keep()


def held_gpus() -> float:
    """GPUs of the Ray cluster that this process is connected to; none without one."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return 0.0
    return float(ray.cluster_resources().get("GPU", 0.0))

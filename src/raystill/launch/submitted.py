"""Jobs of `Client` on a cluster: submitted, looked at and ended by their recipe's name, from any machine."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from raystill.errors import RecipeError
from raystill.launch import follow as following
from raystill.launch import places, submit
from raystill.launch.follow import Place

STATES = {"going": "Running", "done": "Completed", "failed": "Failed"}


@dataclass(frozen=True)
class Submitted:
    """Runs on Kubernetes (`k8s`) or on the Ray cluster at `address` (`ray`); a recipe's `compute` says what they ask for."""

    to: Literal["k8s", "ray"]
    context: str | None = None
    """Of the kubeconfig."""
    address: str | None = None

    def start(self, recipe: Path) -> None:
        """Submit a recipe, or find it going. Raises RecipeProblems with all that would keep it from running there."""
        places.known(self.to)
        if self.to == "k8s":
            submit.to_kubernetes(str(recipe), None, self.context, False, print)
        else:
            submit.to_ray(str(recipe), None, self.address, print)

    def state(self, recipe: Path) -> str:
        """NotStarted, Running, Completed or Failed."""
        place, name = self._find(recipe)
        try:
            return STATES[place.look(name).state]
        except RecipeError:  # no such run
            return "NotStarted"

    def follow(self, recipe: Path, say: Callable[[str], None]) -> None:
        """Tell what a run says until it ends. Raises StageError when it failed."""
        following.follow(*self._find(recipe), say)

    def cancel(self, recipe: Path) -> None:
        """End a run; what it has committed stays."""
        place, name = self._find(recipe)
        place.cancel(name)

    def _find(self, recipe: Path) -> tuple[Place, str]:
        return places.find(str(recipe), self.to, None, None, self.context, self.address)

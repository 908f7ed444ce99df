"""The Ray session of a run: started by the first stage that needs it, on this machine or where RAY_ADDRESS says."""

import collections
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

from raystill.errors import ResourceError
from raystill.placement import Node, Shape
from raystill.recipe import Compute

LOGICAL_CPUS = 8
"""Logical CPUs of a local Ray on a smaller machine: stages hold CPUs by the process, and idle ones cost nothing."""

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAYLLM_ENABLE_REQUEST_PROMPT_LOGS": "0",
}
"""Set before Ray starts, unless the user has set them. Token auth stays on, as Ray does by default for a local cluster."""


GROWS = "RAYSTILL_CLUSTER_GROWS"
"""Environment variable of a cluster whose autoscaler adds nodes: how many are there now bounds nothing."""


@contextlib.contextmanager
def ray_session(compute: Compute) -> Iterator[Callable[[], None]]:
    """Yield a function that makes sure Ray runs; on leaving, what was started here is shut down."""
    started = False

    def ensure() -> None:
        nonlocal started
        for key, value in ENVIRONMENT.items():
            os.environ.setdefault(key, value)
        import ray

        if not ray.is_initialized():
            with _own_sigterm():
                _start(compute)
            started = True

    try:
        yield ensure
    finally:
        if started:
            import ray

            ray.shutdown()


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Ray's start makes SIGTERM leave at once; what it did before is put back."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _start(compute: Compute) -> None:
    import ray

    if "RAY_ADDRESS" in os.environ:
        ray.init()
        return
    cpus = compute.cpus or max(os.cpu_count() or 1, LOGICAL_CPUS)
    # "local": else a cluster that someone started on this machine would be joined.
    ray.init("local", num_cpus=cpus, include_dashboard=False)


def nodes() -> list[Node]:
    """What each living node of the cluster has."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def fit(what: str, most: int, shape: Shape) -> tuple[int, bool]:
    """How many of `most` engines this cluster can hold, and whether each of them lies on several nodes.

    Raises ResourceError with the arithmetic when not even one fits; Ray would wait for ever.
    """
    there = nodes()
    if whole := shape.whole(there):
        return most if GROWS in os.environ else min(most, whole), False
    if spread := shape.spread(there):
        return min(most, spread), True
    kinds = collections.Counter((node.get("CPU", 0), node.get("GPU", 0)) for node in there)
    has = ", ".join(f"{n} of {cpus:g} CPUs and {gpus:g} GPUs" for (cpus, gpus), n in sorted(kinds.items()))
    raise ResourceError(
        f"one {what} needs one node of {shape}; the nodes of this Ray cluster are {has}; ask for less in "
        "'compute.generate', or add larger nodes"
    )


LESS = "ask for less in 'compute', or for a local run leave 'compute.cpus' out"


def need(what: str, cpus: float, gpus: float = 0, *, fix: str = LESS) -> None:
    """Raise ResourceError with the arithmetic when the cluster could never place this; Ray would wait for ever."""
    import ray

    has = ray.cluster_resources()
    for kind, wanted in (("CPU", cpus), ("GPU", gpus)):
        if wanted > has.get(kind, 0):
            raise ResourceError(f"{what} needs {wanted:g} {kind}s and this Ray cluster has {has.get(kind, 0):g}; {fix}")

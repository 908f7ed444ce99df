"""Units over replicas: one long Ray Data execution, so that an engine is built once per replica.

Its rows are units, not prompts: Ray Data gives autoscaling, back-pressure and restarts, and no prompt passes through the
driver or the object store. Results come as units are published, in any order.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from raystill import engine, recipe, session
from raystill import errors as user_errors
from raystill.artifacts import File
from raystill.errors import StageError
from raystill.teachers.units import Done, Unit


def over_replicas(
    what: str,
    actor: type,
    arguments: tuple[Any, ...],
    units: Sequence[Unit],
    wide: recipe.Generate,
    gpus: int,
    say: Callable[[str], None],
) -> Iterator[Done]:
    """Units as they are published. Raises ResourceError when not even one replica fits, and what an actor reports.

    `actor` is called with a batch of one unit as JSON and answers with a Done, or our own error, as JSON.
    """
    import ray

    least, most = (wide.replicas, wide.replicas) if isinstance(wide.replicas, int) else wide.replicas
    cpus = wide.cpus or max(1, (os.cpu_count() or 1) // most)
    gpus = gpus if wide.gpus is None else wide.gpus
    fit = session.fit(f"{what} replica of {cpus} CPUs and {gpus} GPUs (compute.generate)", most, cpus, gpus)
    if fit < most:
        say(f"{what}: {fit} of {most} replicas fit this cluster now; the run goes on with those")
    dataset = ray.data.from_items([{"unit": json.dumps(vars(u))} for u in units], override_num_blocks=len(units))
    answered = dataset.map_batches(
        actor,
        fn_constructor_args=arguments,
        batch_size=1,
        # Ray Data adds a replica above 1.75 tasks in flight per slot, so there must be room for more than that.
        compute=ray.data.ActorPoolStrategy(
            min_size=min(least, fit), max_size=fit, max_tasks_in_flight_per_actor=2 * wide.units_in_flight
        ),
        num_cpus=cpus,
        num_gpus=gpus,
        max_concurrency=wide.units_in_flight,
        runtime_env={"env_vars": engine.environment(cpus)},
    )
    try:
        for row in answered.iter_rows():
            values = json.loads(row["done"])
            if "error" in values:
                raise getattr(user_errors, values["error"])(values["says"])
            if phases := values.get("start_up"):
                say(f"{what}: a replica is ready: {', '.join(f'{name} {s:g} s' for name, s in phases.items())}")
            yield Done(File(**values["file"]), values["counts"])
    except ray.exceptions.RayError as e:
        lines = [line for line in str(e).splitlines() if line.strip()] or [type(e).__name__]
        raise StageError(f"{what} failed: {lines[-1].strip()}") from e

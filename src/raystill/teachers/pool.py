"""Units over replicas: one long Ray Data execution, so that an engine is built once per replica.

Its rows are units, not prompts: Ray Data gives autoscaling, back-pressure and restarts, and no prompt passes through the
driver or the object store. Results come as units are published, in any order.
"""

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from raystill import engine, placement, recipe, session
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
    asked: Mapping[str, Any] | None,
    say: Callable[[str], None],
) -> Iterator[Done]:
    """Units as they are published. Raises ResourceError when not even one replica fits, and what an actor reports.

    `actor` is called with a batch of one unit as JSON and answers with a Done, or our own error, as JSON. `asked` are its
    engine's arguments, None for an actor that takes no GPU unless compute.generate says so.
    """
    import ray

    least, most = placement.replicas(wide)
    shape = placement.shape(asked, wide, on_gpu=any(node.get("GPU") for node in session.nodes()))
    fit, spread = session.fit(f"{what} replica", most, shape)
    if fit < most:
        say(f"{what}: {fit} of {most} replicas fit this cluster now; the run goes on with those")
    # Where units are few, none may be promised to one replica while another goes without.
    at_once = max(1, min(wide.units_in_flight, len(units) // (2 * fit))) if fit > 1 else wide.units_in_flight
    dataset = ray.data.from_items([{"unit": json.dumps(vars(u))} for u in units], override_num_blocks=len(units))
    with _placed(shape, fit) if spread else contextlib.nullcontext() as place:
        answered = dataset.map_batches(
            actor,
            fn_constructor_args=arguments,
            batch_size=1,
            # Ray Data adds a replica above 1.75 tasks in flight per slot, so there must be room for more than that.
            compute=ray.data.ActorPoolStrategy(
                min_size=fit if spread else min(least, fit),
                max_size=fit,
                max_tasks_in_flight_per_actor=2 * at_once,
                max_concurrent_calls_per_actor=at_once,
            ),
            num_cpus=shape.cpus,
            num_gpus=0 if spread else shape.gpus,
            ray_remote_args_fn=place,
            runtime_env={"env_vars": engine.environment(shape.cpus, shape.gpus > 0)},
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


@contextlib.contextmanager
def _placed(shape: placement.Shape, replicas: int) -> Iterator[Callable[[], dict[str, Any]]]:
    """Placement groups for engines over several nodes, and what gives the next replica its own; all gone afterwards.

    They are as many as the pool is large and live as long: Ray puts a replica that died into its group again.
    """
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    groups = [ray.util.placement_group(shape.bundles(), strategy="PACK") for _ in range(replicas)]
    free = itertools.cycle(groups)
    try:
        yield lambda: {"scheduling_strategy": PlacementGroupSchedulingStrategy(next(free), 0, True)}
    finally:
        for group in groups:
            ray.util.remove_placement_group(group)

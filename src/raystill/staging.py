"""Copies of a model where an engine starts: on its own node, and on those that its other GPUs lie on."""

from raystill import engine
from raystill.artifacts import Checkpoint


def staged(model: Checkpoint) -> str:
    """The model's folder on this node, and on all others of this actor's placement group: vLLM's workers read it there."""
    if engine.in_placement_group():
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        group = ray.util.placement_group_table(ray.util.get_current_placement_group())
        fetch = ray.remote(num_cpus=0)(type(model).folder)
        nodes = set(group["bundles_to_node_id"].values()) - {ray.get_runtime_context().get_node_id()}
        ray.get(
            [fetch.options(scheduling_strategy=NodeAffinitySchedulingStrategy(n, False)).remote(model) for n in nodes]
        )
    return model.folder()

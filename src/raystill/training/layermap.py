"""Which of the student's layers learns from which of the teacher's. Light: `plan` asks before anything is loaded."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from raystill import recipe
from raystill.errors import RecipeError

Map = Literal["uniform", "last"] | Sequence[tuple[int, int]]


def layer_pairs(chosen: Map, student: int, teacher: int) -> list[tuple[int, int]]:
    """Pairs of layers, from 0, of models with so many. Raises RecipeError for one that a model does not have.

    uniform   every layer of the student with the teacher's at the same share of its depth, the last with the last
    last      the last with the last
    """
    if chosen == "last":
        return [(student - 1, teacher - 1)]
    if chosen == "uniform":
        return [(i, max(0, round((i + 1) * teacher / student) - 1)) for i in range(student)]
    pairs = [(ours, theirs) for ours, theirs in chosen if not isinstance(chosen, str)]
    if outside := [list(pair) for pair in pairs if pair[0] >= student or pair[1] >= teacher]:
        raise RecipeError(
            f"map names layers {outside} as [student's, teacher's], and the student has 0 to {student - 1}, the teacher 0 to "
            f"{teacher - 1}; map: uniform, or pairs such as [[{student - 1}, {teacher - 1}]]"
        )
    return pairs


def layers(config: Mapping[str, Any]) -> int:
    """Decoder layers that a config.json tells of."""
    return int(config.get("text_config", config)["num_hidden_layers"])


def check(loss: recipe.Loss, student: Mapping[str, Any], teacher: Mapping[str, Any]) -> None:
    """Raise RecipeError for a map of layers that these models, by their config.json, do not have."""
    for key, block in (("layers", loss.layers), ("attention", loss.attention)):
        try:
            if block:
                layer_pairs(block.map, layers(student), layers(teacher))
        except RecipeError as e:
            raise RecipeError(f"train.loss.{key}.{e}") from e

import pytest

from raystill import recipe
from raystill.training.advice import advice

LORA = recipe.Lora()


@pytest.mark.parametrize(
    ("train", "parameters", "warned"),
    [
        (recipe.Train(), 3_000_000_000, False),
        (recipe.Train(learning_rate=1e-4), 3_000_000_000, True),
        (recipe.Train(learning_rate=5e-6), 3_000_000_000, True),
        (recipe.Train(learning_rate=1e-3), 135_000_000, False),
        (recipe.Train(learning_rate=1e-3), None, False),
        (recipe.Train(lora=LORA), 135_000_000, False),
        (recipe.Train(lora=LORA, learning_rate=2e-5), None, True),
        (recipe.Train(lora=LORA, learning_rate=1e-3), 3_000_000_000, True),
    ],
)
def test_rates_outside_the_familys_range_are_warned_of_with_a_source(
    train: recipe.Train, parameters: int | None, warned: bool
) -> None:
    found = list(advice(train, parameters, None))
    assert len(found) == warned
    assert all("train.learning_rate" in line and "arXiv" in line for line in found)


@pytest.mark.parametrize(("epochs", "warned"), [(1, True), (2, False), (5, False), (6, True)])
def test_unusual_epochs_are_warned_of(epochs: float, warned: bool) -> None:
    assert len(list(advice(recipe.Train(epochs=epochs), None, None))) == warned


def test_examples_beyond_a_long_ropes_first_positions_are_warned_of() -> None:
    config = {
        "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096,
        "rope_scaling": {"type": "longrope"},
    }
    assert not list(advice(recipe.Train(), None, config))
    (line,) = advice(recipe.Train(max_length=8192), None, config)
    assert "max_length: 4096" in line
    assert not list(advice(recipe.Train(max_length=8192), None, {"max_position_embeddings": 131072}))

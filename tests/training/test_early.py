import pytest
from pydantic import ValidationError

from raystill import recipe
from raystill.recipe import EarlyStopping
from raystill.training import early


def curve(metric: str, **at: float | None) -> list[dict[str, object]]:
    """Ten steps, of which some were validated."""
    return [{"step": step, metric: at.get(f"s{step}")} for step in range(1, 11)]


def test_a_loss_is_best_when_low_and_a_metric_when_high_and_of_equals_the_first() -> None:
    seen = {"s2": 0.5, "s4": 0.3, "s6": 0.3, "s8": 0.9, "s10": float("nan")}
    assert early.ranked(curve("validation_loss", **seen), "validation_loss") == [4, 6, 2, 8]
    assert early.ranked(curve("accuracy", **seen), "accuracy") == [8, 2, 4, 6]
    assert early.ranked(curve("accuracy"), "accuracy") == []


@pytest.mark.parametrize(
    ("patience", "seen", "why"),
    [
        (2, {"s2": 0.5, "s4": 0.6}, None),
        (2, {"s2": 0.5, "s4": 0.6, "s6": 0.5}, "no better validation_loss in 2 validations"),
        (2, {"s2": 0.5, "s4": 0.6, "s6": 0.4, "s8": 0.7}, None),
        (2, {"s2": 0.5, "s4": float("nan"), "s6": float("inf")}, "no better validation_loss in 2 validations"),
        (None, {"s2": 0.5, "s4": 0.6, "s6": 0.6, "s8": 0.6, "s10": 0.6}, None),
        (1, {}, None),
    ],
)
def test_patience_counts_validations_without_a_better_one(
    patience: int | None, seen: dict[str, float], why: str | None
) -> None:
    assert early.over(curve("validation_loss", **seen), EarlyStopping(patience=patience)) == why


def test_without_early_stopping_training_is_never_over() -> None:
    assert early.over(curve("validation_loss", s2=0.1, s4=0.9, s6=0.9, s8=0.9, s10=0.9), None) is None


def test_early_stopping_needs_validations() -> None:
    with pytest.raises(ValidationError, match="validations: 10"):
        recipe.Train(validations=0, early_stopping=EarlyStopping())

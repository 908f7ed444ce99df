"""What is possible and rarely wanted: settings outside what others found to work. Warned of, never refused."""

from collections.abc import Iterator, Mapping
from typing import Any

from raystill import recipe
from raystill.engine import default_context

LARGE = 1_000_000_000
"""Parameters from which the range for all weights holds: smaller models bear, and often need, higher rates."""
FULL = (1e-5, 5e-5)
LORA = (1e-4, 5e-4)
EPOCHS = (2, 5)


def advice(train: recipe.Train, parameters: int | None, config: Mapping[str, Any] | None) -> Iterator[str]:
    """A line for each setting outside its family's range; the student's parameters and config.json, None where not known."""
    rate = f"train.learning_rate {train.learning_rate:g}"
    if train.lora and not LORA[0] <= train.learning_rate <= LORA[1]:
        yield (
            f"{rate} is outside {LORA[0]:g} to {LORA[1]:g}, where LoRA usually learns (arXiv 2305.14314 took 2e-4 for 7B and "
            "13B, 1e-4 above)"
        )
    elif not train.lora and (parameters or 0) >= LARGE and not FULL[0] <= train.learning_rate <= FULL[1]:
        yield (
            f"{rate} is outside {FULL[0]:g} to {FULL[1]:g}, where all weights of a model of 1B and more usually learn (arXiv "
            "2307.09288 took 2e-5)"
        )
    if not EPOCHS[0] <= train.epochs <= EPOCHS[1]:
        yield (
            f"train.epochs {train.epochs:g} is outside {EPOCHS[0]} to {EPOCHS[1]}: fewer leave much unlearnt, more are learnt "
            "by heart (arXiv 2307.09288 took 2); watch the validation loss"
        )
    reach = default_context(config) if config else train.max_length
    if config and reach < config.get("max_position_embeddings", reach) and train.max_length > reach:
        yield (
            f"train.max_length {train.max_length} is above the {reach} positions that the student has before scaling: a longer "
            "example turns its positions by other factors, and with it those of every example in its forward pass, so what a "
            f"step learns depends on compute.train.micro_tokens; max_length: {reach} avoids it"
        )

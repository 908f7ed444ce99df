"""What the trainer cannot do is said in the recipe's words, with what would work."""

import pytest

from raystill import recipe
from raystill.errors import RecipeError, ResourceError
from raystill.training import fits, offload, zero


def said(train: recipe.Train, zero: int = 1, workers: int | None = None, gpu: bool | None = None) -> str:
    return "\n".join(map(str, fits.mistakes(train, recipe.Workers(zero=zero), workers, gpu)))


def zero_keys(**keys: object) -> recipe.Train:
    return recipe.Train(deepspeed={"zero_optimization": keys})


@pytest.mark.parametrize(
    ("train", "zero", "workers", "gpu", "says"),
    [
        (recipe.Train(batch_size=4), 1, 8, None, ("smaller than the 8 workers", "4 would never learn", "workers: 4")),
        (recipe.Train(lora=recipe.Lora(quantize="nf4")), 1, 1, False, ("needs a GPU", "remove it")),
        (recipe.Train(lora=recipe.Lora(quantize="nf4")), 3, 1, True, ("packs them in 4", "{train: {zero: 2}}")),
        (recipe.Train(optimizer="adamw_8bit"), 1, 1, False, ("needs a GPU", "optimizer: adamw_fused")),
        (
            recipe.Train(
                optimizer="adamw_8bit", deepspeed={"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}
            ),
            1, 1, True, ("moves its state to cpu", "adamw_fused"),
        ),
        (zero_keys(offload_optimizer={"device": "cpu"}), 0, None, None, ("is 0", "zero: 1 or 2 or 3")),
        (zero_keys(offload_param={"device": "cpu"}), 2, None, None, ("is 2", "{train: {zero: 3}}")),
        (zero_keys(offload_optimizer={"device": "nvme", "nvme_path": "/d"}), 2, None, None, ("zero: 3",)),
        (zero_keys(offload_optimizer={"device": "nvme"}), 3, None, None, ("absolute nvme_path", "/local_nvme")),
        (zero_keys(offload_param={"device": "disk"}), 3, None, None, ("no device 'disk'", "cpu, nvme or none")),
        (zero_keys(offload_optimiser={"device": "cpu"}), 2, None, None, ("did you mean 'offload_optimizer'?",)),
        (zero_keys(offload_optimizer={"divice": "cpu"}), 2, None, None, ("did you mean 'device'?",)),
        (zero_keys(stage3_max_live_params=1), 3, None, None, ("did you mean 'stage3_max_live_parameters'?",)),
        (zero_keys(zero_quantized_weights=True), 2, None, True, ("ZeRO++", "{train: {zero: 3}}")),
        (zero_keys(zero_quantized_gradients=True), 3, None, False, ("needs a GPU",)),
        (zero_keys(zero_hpz_partition_size=4), 3, 6, True, ("does not divide 6", "1, 2, 3, 6")),
        (recipe.Train(deepspeed={"zero_optimization": 3}), 3, None, None, ("is a map",)),
    ],
)  # fmt: skip
def test_a_pair_that_cannot_be_is_refused_with_what_would_work(
    train: recipe.Train, zero: int, workers: int | None, gpu: bool | None, says: tuple[str, ...]
) -> None:
    found = said(train, zero, workers, gpu)
    assert found.count("\n    ") == 1, found
    assert all(part in found for part in says), found


@pytest.mark.parametrize(
    ("train", "zero"),
    [
        (recipe.Train(), 1),
        (recipe.Train(batch_size=8, lora=recipe.Lora(quantize="nf4"), optimizer="adamw_8bit"), 2),
        (zero_keys(offload_optimizer={"device": "cpu", "pin_memory": False}), 1),
        (zero_keys(offload_optimizer={"device": "none"}, offload_param={"device": "none"}), 0),
        (zero_keys(offload_optimizer={"device": "nvme", "nvme_path": "/d"}, offload_param={"device": "cpu"}), 3),
        (zero_keys(zero_quantized_weights=True, zero_quantized_gradients=True, zero_hpz_partition_size=4), 3),
    ],
)
def test_what_goes_together_is_let_through(train: recipe.Train, zero: int) -> None:
    assert said(train, zero, 8, True) == ""


def test_the_stage_refuses_with_the_key_first() -> None:
    with pytest.raises(RecipeError, match=r"^train\.batch_size: batch_size 1 is smaller"):
        fits.refuse(recipe.Train(batch_size=1), recipe.Workers(), 2, gpu=False)


def test_deepspeeds_own_keys_are_read_from_its_source() -> None:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    names = {field.alias or name for name, field in DeepSpeedZeroConfig.model_fields.items()}
    assert names <= offload._known("DeepSpeedZeroConfig")


def test_compiled_layers_are_not_sharded() -> None:
    (found,) = fits.mistakes(recipe.Train(), recipe.Workers(zero=3, compile=True), None, None)
    assert found.where == "compute.train.compile" and "zero: 2" in found.fix
    assert not list(fits.mistakes(recipe.Train(), recipe.Workers(zero=2, compile=True), None, None))


def test_nvme_without_libaio_says_what_to_install() -> None:
    zero.environment(gpu=False)
    from deepspeed.ops.op_builder import AsyncIOBuilder

    offload.require(zero_keys(offload_optimizer={"device": "cpu"}).deepspeed)
    if AsyncIOBuilder().is_compatible(verbose=False):
        pytest.skip("libaio is installed here")
    with pytest.raises(ResourceError, match="apt install libaio-dev"):
        offload.require(zero_keys(offload_param={"device": "nvme", "nvme_path": "/d"}).deepspeed)

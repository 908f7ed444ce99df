"""What of `train` this machine, its workers or the ZeRO stage cannot do. Light: `plan` asks, and the stage before it starts."""

from collections.abc import Iterator

from raystill import recipe
from raystill.errors import Problem, RecipeError
from raystill.training import offload

ELSEWHERE = "run it where GPUs are"


def refuse(train: recipe.Train, compute: recipe.Workers, workers: int, gpu: bool) -> None:
    """Raise RecipeError with every mistake for these workers, on GPUs or not."""
    if found := list(mistakes(train, compute, workers, gpu)):
        raise RecipeError("\n".join(f"{p.where}: {p.what}; {p.fix}" for p in found))


def mistakes(train: recipe.Train, compute: recipe.Workers, workers: int | None, gpu: bool | None) -> Iterator[Problem]:
    """Each impossible pair of keys; workers and gpu are None where they are not known yet."""
    if workers and train.batch_size < workers:
        yield Problem(
            "train.batch_size",
            f"batch_size {train.batch_size} is smaller than the {workers} workers: a step's examples are dealt out among them, "
            f"and {workers - train.batch_size} would never learn from one",
            f"batch_size: {workers} or more, or compute: {{train: {{workers: {train.batch_size}}}}}",
        )
    lora = train.lora
    if lora and lora.quantize:
        if gpu is False:
            what = f"quantize: {lora.quantize} needs a GPU: of bitsandbytes only the CUDA kernels are used"
            yield Problem("train.lora.quantize", what, f"remove it to train LoRA here, or {ELSEWHERE}")
        if compute.zero == 3:
            what = f"ZeRO 3 would shard weights of 16 bits, and quantize: {lora.quantize} packs them in 4"
            yield Problem("train.lora.quantize", what, "compute: {train: {zero: 2}}; all workers hold them")
    if train.optimizer == "adamw_8bit":
        if gpu is False:
            what = "adamw_8bit needs a GPU: of bitsandbytes only the CUDA kernels are used"
            yield Problem("train.optimizer", what, f"optimizer: adamw_fused, or {ELSEWHERE}")
        if there := offload.device(train.deepspeed, "offload_optimizer"):
            what = f"adamw_8bit steps on the GPU, and offload_optimizer moves its state to {there}"
            yield Problem("train.optimizer", what, "optimizer: adamw_fused, which also steps on CPUs")
    if compute.compile and compute.zero == 3:
        what = "ZeRO 3 gathers each layer's weights by hooks, which compiled layers would have to leave at every step"
        yield Problem("compute.train.compile", what, "compute: {train: {compile: false}}, or zero: 2")
    yield from offload.mistakes(train.deepspeed, compute, workers, gpu)

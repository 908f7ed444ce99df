"""Which loss goes with which soft targets. Light: `plan` asks before anything is scored, the stage before it trains."""

from dataclasses import dataclass

from raystill import losses, recipe

DENSE = "dense"
"""The support of a live teacher's targets: every id, at any temperature."""


@dataclass(frozen=True)
class Mistake:
    """A key of `train.loss` that cannot be as it is, why, and what to type instead."""

    key: str
    what: str
    fix: str


def supply(train: recipe.Train, support: str | None, temperature: float | None) -> tuple[str | None, float | None]:
    """Support and temperature of what a student learns from; `support` and `temperature` are those of stored targets."""
    return (DENSE, train.loss.temperature or 1.0) if train.teacher == "live" else (support, temperature)


def mistakes(loss: recipe.Loss, support: str | None, temperature: float | None, packing: bool = True) -> list[Mistake]:
    """What is wrong with a loss for targets of this support and temperature, or for none."""
    traits = losses.traits(loss.kind)
    found = []
    matched = [key for key in ("layers", "attention") if getattr(loss, key)]
    if support != DENSE:
        what = "{} compares what happens inside both models, and stored targets tell only what the teacher would write"
        found += [Mistake(key, what.format(key), "train: {teacher: live}, or remove it") for key in matched]
    if loss.attention and not packing:
        what = "attention is compared in packed rows, where raystill computes it, and packing is off"
        found.append(Mistake("attention", what, "train: {packing: true}, or remove it"))
    for key in ("beta", "skew", "head"):
        takers = [kind for kind, has in losses.TRAITS.items() if key in has.settings]
        if getattr(loss, key) is not None and loss.kind not in takers:
            fix = f"remove it, or kind: {' or '.join(takers)}"
            found.append(Mistake(key, f"{key} says nothing to kind: {loss.kind}", fix))
    if loss.kind == losses.TEXT:
        for key in ("alpha", "temperature"):
            if getattr(loss, key) != type(loss).model_fields[key].default:
                what = f"{key} says nothing to kind: {losses.TEXT}, which uses no soft targets"
                found.append(Mistake(key, what, "remove it, or kind: forward_kl"))
        if support == DENSE and not matched:
            what = f"nothing asks the live teacher: kind: {losses.TEXT} learns from text alone"
            found.append(Mistake("kind", what, "loss: {kind: forward_kl}, or train: {teacher: stored}"))
        return found
    if support is None or temperature is None:
        what = f"{loss.kind} learns from soft targets, and there are none"
        return [*found, Mistake("kind", what, f"score: {{k: 50}}, or loss: {{kind: {losses.TEXT}}}")]
    if support == "sampled" and not traits.sampled:
        able = [kind for kind, has in losses.TRAITS.items() if has.sampled]
        what = (
            f"{loss.kind} needs the teacher's probability of tokens that the student likes, and draws tell only which tokens "
            "the teacher likes"
        )
        found.append(Mistake("kind", what, f"loss: {{kind: {' or '.join(able)}}}, or score: {{support: top_k}}"))
    if loss.temperature is not None and loss.temperature != temperature:
        what = (
            f"targets scored at temperature {temperature:g} cannot become those of {loss.temperature:g}, since each token's "
            "share of the tail is not stored"
        )
        fix = f"score: {{temperature: {loss.temperature:g}}}, or loss: {{temperature: {temperature:g}}}"
        found.append(Mistake("temperature", what, fix))
    return found

import pytest

from raystill import recipe
from raystill.losses import KINDS, TEXT
from raystill.training import pairs

REFUSED = [
    ({"kind": "forward_kl"}, None, "kind", "there are none", "score: {k: 50}"),
    ({"kind": "reverse_kl"}, ("sampled", 1.0), "kind", "draws tell only", "score: {support: top_k}"),
    ({"kind": "generalised_kl"}, ("sampled", 1.0), "kind", "draws tell only", "forward_kl"),
    ({"kind": "mine:divergence"}, ("sampled", 1.0), "kind", "draws tell only", "forward_kl"),
    (
        {"kind": "forward_kl", "temperature": 2},
        ("top_k", 1.0),
        "temperature",
        "cannot become",
        "score: {temperature: 2}",
    ),
    ({"kind": "forward_kl", "temperature": 2}, ("sampled", 1.5), "temperature", "cannot become", "temperature: 1.5"),
    ({"kind": "forward_kl", "beta": 0.5}, ("top_k", 1.0), "beta", "says nothing", "kind: jensen_shannon"),
    ({"kind": "jensen_shannon", "skew": 0.5}, ("top_k", 1.0), "skew", "says nothing", "skew_kl or skew_reverse_kl"),
    ({"kind": TEXT, "alpha": 0.5}, ("top_k", 1.0), "alpha", "no soft targets", "kind: forward_kl"),
    ({"kind": TEXT, "temperature": 2}, None, "temperature", "no soft targets", "kind: forward_kl"),
    ({"layers": {}}, None, "layers", "inside both models", "train: {teacher: live}"),
    ({"kind": "forward_kl", "attention": {}}, ("top_k", 1.0), "attention", "inside both models", "{teacher: live}"),
    ({"kind": TEXT}, (pairs.DENSE, 1.0), "kind", "nothing asks the live teacher", "{teacher: stored}"),
]


@pytest.mark.parametrize(("loss", "score", "key", "what", "fix"), REFUSED)
def test_an_impossible_pair_is_refused_with_what_would_work(
    loss: dict[str, object], score: tuple[str, float] | None, key: str, what: str, fix: str
) -> None:
    (found,) = pairs.mistakes(recipe.Loss.model_validate(loss), *(score or (None, None)))
    assert found.key == key
    assert what in found.what
    assert fix in found.fix


def test_attention_is_compared_in_packed_rows_alone() -> None:
    loss = recipe.Loss(attention=recipe.Attention())
    assert not pairs.mistakes(loss, pairs.DENSE, 1.0)
    (found,) = pairs.mistakes(loss, pairs.DENSE, 1.0, packing=False)
    assert (found.key, found.fix) == ("attention", "train: {packing: true}, or remove it")


def test_a_live_teacher_gives_every_id_at_any_temperature() -> None:
    train = recipe.Train(teacher="live", loss=recipe.Loss(kind="reverse_kl", temperature=3))
    assert pairs.supply(train, "sampled", 1.0) == (pairs.DENSE, 3)
    assert pairs.supply(train.model_copy(update={"teacher": "stored"}), "sampled", 1.0) == ("sampled", 1.0)


def test_what_can_be_is_not_refused() -> None:
    for kind in KINDS:
        assert not pairs.mistakes(recipe.Loss(kind=kind), "top_k", 1.0)
        assert not pairs.mistakes(recipe.Loss(kind=kind, layers=recipe.Layers(), temperature=None), pairs.DENSE, 1.0)
    assert not pairs.mistakes(recipe.Loss(), None, None)
    assert not pairs.mistakes(recipe.Loss(kind="forward_kl", alpha=0.5, temperature=2), "sampled", 2.0)

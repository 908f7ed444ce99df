import pytest

from raystill import recipe
from raystill.errors import RecipeError
from raystill.training.layermap import check, layer_pairs


def test_a_uniform_map_keeps_the_depth_and_ends_at_the_end() -> None:
    assert layer_pairs("uniform", 2, 6) == [(0, 2), (1, 5)]
    assert layer_pairs("uniform", 3, 3) == [(0, 0), (1, 1), (2, 2)]
    assert layer_pairs("uniform", 4, 2) == [(0, 0), (1, 0), (2, 1), (3, 1)]
    for student in range(1, 12):
        for teacher in range(1, 12):
            pairs = layer_pairs("uniform", student, teacher)
            assert [ours for ours, _ in pairs] == list(range(student))
            assert pairs[-1] == (student - 1, teacher - 1)
            assert all(0 <= theirs < teacher for _, theirs in pairs)


def test_other_maps_and_layers_that_are_not_there() -> None:
    assert layer_pairs("last", 2, 6) == [(1, 5)]
    assert layer_pairs([(0, 5), (1, 0)], 2, 6) == [(0, 5), (1, 0)]
    with pytest.raises(RecipeError, match=r"\[\[2, 5\]\] .*0 to 1, the teacher 0 to 5"):
        layer_pairs([(0, 0), (2, 5)], 2, 6)
    loss = recipe.Loss(attention=recipe.Attention(map=[(0, 6)]))
    with pytest.raises(RecipeError, match=r"train\.loss\.attention\.map names"):
        check(loss, {"num_hidden_layers": 2}, {"text_config": {"num_hidden_layers": 6}})
    check(recipe.Loss(), {}, {})

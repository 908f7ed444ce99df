"""Engine arguments: what is refused before an engine starts."""

import dataclasses

import pytest

from raystill import engine
from raystill.errors import RecipeError


def test_an_unknown_argument_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(RecipeError, match=r"teacher\.engine\.max_num_seq .*did you mean 'max_num_seqs'"):
        engine.refuse_unknown({"max_num_seq": 4}, "teacher.engine")


@pytest.mark.slow
def test_the_known_arguments_are_those_of_vllms_own_class() -> None:
    from vllm import AsyncEngineArgs

    assert sorted(engine.known_arguments()) == sorted(field.name for field in dataclasses.fields(AsyncEngineArgs))

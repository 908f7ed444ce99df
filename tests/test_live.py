"""Ctrl-C and SIGTERM: once finishes the current unit, twice stops at once, and afterwards all is as before."""

import io
import signal
import threading

import pytest

from raystill.live import _ctrl_c, models_of
from raystill.recipe import Recipe
from raystill.view import view


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_is_graceful_and_the_second_at_once(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    stopping, out = threading.Event(), io.StringIO()
    with view(out) as progress, pytest.raises(KeyboardInterrupt), _ctrl_c(stopping, progress):
        signal.raise_signal(number)
        assert stopping.is_set()
        assert "again stops at once" in out.getvalue()
        signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_what_is_served_are_models_and_not_their_answers() -> None:
    values = {"name": "r", "task": "conversation", "data": {"train": "x"}, "teacher": {"model": "t"}}
    known = dict.fromkeys(["prepare", "teacher", "baseline", "student", "answers/baseline", "load/student"], "u")
    single = Recipe.model_validate(values | {"student": {"model": "s"}})
    assert list(models_of(single, known)) == ["teacher", "baseline", "student"]
    several = Recipe.model_validate(values | {"students": {"a": {"model": "s"}, "b": {"model": "s"}}})
    found = models_of(several, dict.fromkeys(["teacher", "a-baseline", "a", "answers/a", "answers/a-baseline"], "u"))
    assert list(found) == ["teacher", "a-baseline", "a"]

"""Ctrl-C: once finishes the current unit, twice stops at once, and afterwards all is as before."""

import io
import signal
import threading

import pytest

from raystill.live import _ctrl_c
from raystill.view import view


def test_the_first_is_graceful_and_the_second_at_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    stopping, out = threading.Event(), io.StringIO()
    with view(out) as progress, pytest.raises(KeyboardInterrupt), _ctrl_c(stopping, progress):
        signal.raise_signal(signal.SIGINT)
        assert stopping.is_set()
        assert "again stops at once" in out.getvalue()
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before

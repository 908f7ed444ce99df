"""meter: machine time of requests that share an engine."""

import pytest

from raystill.serving.machine_time import Meter, Spent


def test_requests_at_once_share_the_time_and_all_of_it_is_shared() -> None:
    now = 0.0
    meter = Meter(lambda: now)
    long, short = Spent(), Spent()
    with meter.request(long):
        now = 1.0
        with meter.request(short):
            now = 3.0
        now = 4.0
    now = 9.0
    with meter.request(alone := Spent()):
        now = 10.0
    assert (long.machine_s, short.machine_s, alone.machine_s) == (3.0, 1.0, 1.0)
    assert meter.in_flight == 0


def test_a_request_that_fails_has_taken_its_time_and_leaves() -> None:
    now = 0.0
    meter, spent = Meter(lambda: now), Spent()
    with pytest.raises(ValueError), meter.request(spent):
        now = 2.0
        raise ValueError
    assert (spent.machine_s, meter.in_flight) == (2.0, 0)

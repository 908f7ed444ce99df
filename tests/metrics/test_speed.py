"""Loads to figures by hand, and the search for users served against servers whose capacity is known."""

import pytest

from raystill.client import Reply
from raystill.metrics.speed import RESOLUTION, figures, holds, next_load, served
from raystill.recipe import Evaluate, Objective
from raystill.records import Load


def reply(ttft_s: float, elapsed_s: float, output_tokens: int, prompt_tokens: int = 10) -> Reply:
    return Reply("x", "stop", prompt_tokens, output_tokens, ttft_s, elapsed_s)


def test_figures_by_hand() -> None:
    # two answers of 5 tokens: 0.1 s to the first, then 4 more in 0.4 and 0.8 s; one of a single token; one that failed
    replies = [reply(0.1, 0.5, 5), reply(0.1, 0.9, 5, 20), reply(0.3, 0.3, 1), None]
    measured = {"weights_bytes": 1000, "kv_bytes_per_token": 8.0, "energy_j": 12.0, "energy_of": "package-0 (RAPL)"}
    load = figures(replies, 2.0, "student", "m", 2, measured)
    assert (load.requests, load.errors, load.concurrency) == (4, 1, 2)
    assert load.ttft_s == pytest.approx(0.1)
    assert load.ttft_p95_s == pytest.approx(0.28)
    assert load.time_per_output_token_s == pytest.approx(0.15)
    assert load.time_per_output_token_p95_s == pytest.approx(0.195)
    assert load.seconds_per_answer == pytest.approx(0.5)
    assert load.seconds_per_answer_p95 == pytest.approx(0.5 + 0.9 * 0.4)
    assert load.seconds_per_answer_p99 == pytest.approx(0.5 + 0.98 * 0.4)
    assert load.output_tokens_per_s == pytest.approx(5.5)
    assert load.answers_per_s == pytest.approx(1.5)
    assert load.kv_bytes == 8 * (15 + 25)  # the two longest rows at once
    assert (load.energy_j, load.energy_of) == (12.0, "package-0 (RAPL)")


def test_what_nothing_told_is_none() -> None:
    load = figures([reply(0.1, 0.5, 5)], 1.0, "student", "m", 1, {})
    assert (load.kv_bytes_per_token, load.kv_bytes, load.energy_j, load.energy_of) == (None, None, None, None)


def test_every_limit_counts_and_so_do_failures() -> None:
    load = figures([reply(0.2, 1.0, 9)] * 100, 1.0, "student", "m", 1, {})
    assert holds(load, Objective(ttft_p95_s=0.2, tpot_p95_s=0.1, latency_p95_s=1.0))
    assert not holds(load, Objective(ttft_p95_s=0.19))
    assert not holds(load, Objective(tpot_p95_s=0.09))
    assert not holds(load, Objective(latency_p95_s=0.99))
    one, two = ([*[reply(0.2, 1.0, 9)] * (100 - n), *[None] * n] for n in (1, 2))
    assert holds(figures(one, 1.0, "student", "m", 1, {}), Objective(latency_p95_s=1.0))
    assert not holds(figures(two, 1.0, "student", "m", 1, {}), Objective(latency_p95_s=1.0))


def searched(capacity: int, config: Evaluate) -> list[Load]:
    """The loads measured of a server that answers in a second up to its capacity, and in two beyond it."""
    loads: list[Load] = []
    while (users := next_load(config, loads)) is not None:
        assert users not in {load.concurrency for load in loads} and 1 <= users <= max(config.max_users, *config.load)
        loads.append(figures([reply(0.1, 1.0 if users <= capacity else 2.0, 5)] * 10, 1.0, "m", "h", users, {}))
    return loads


def test_users_served_is_a_load_that_held_next_to_one_that_did_not() -> None:
    config = Evaluate(load=[1, 8], objective=Objective(latency_p95_s=1.0), max_users=300)
    assert config.objective
    for capacity in range(300):
        loads = searched(capacity, config)
        most, broken = served(loads, config.objective)
        assert broken is not None and most <= capacity < broken
        assert most == 0 or most in {load.concurrency for load in loads}
        assert broken - most <= max(1, RESOLUTION * most)
        assert len(loads) <= 10


def test_a_server_that_never_breaks_is_said_to_serve_what_was_tried() -> None:
    config = Evaluate(load=[2], objective=Objective(latency_p95_s=1.0), max_users=50)
    loads = searched(10_000, config)
    assert config.objective and served(loads, config.objective) == (50, None)
    assert [load.concurrency for load in loads] == [2, 4, 16, 50]


def test_without_an_objective_the_stated_loads_are_all() -> None:
    assert [load.concurrency for load in searched(3, Evaluate(load=[4, 1]))] == [4, 1]

"""The page about a search."""

from raystill.reporting.search import Trial, best, page

TRIALS = [
    Trial({"learning_rate": 1e-5, "k": 10}, [2.0, 1.5], "whole"),
    Trial({"learning_rate": 1e-3, "k": 50}, [1.8, 1.25], "whole"),
    Trial({"learning_rate": 1e-4, "k": 10}, [0.5], "stopped"),
    Trial({"learning_rate": 1.0, "k": 10}, [], "failed", "it <diverged>"),
]


def test_the_best_came_to_its_end() -> None:
    assert best(TRIALS) is TRIALS[1]


def test_the_page_shows_every_trial_and_draws_those_that_ended() -> None:
    made = page("support", TRIALS, "random")
    assert "Best of 4 trials: learning_rate 0.001, k 50." in made
    assert made.count("<svg") == 2
    assert made.count("h0") == 2 * 2
    assert "it &lt;diverged&gt;" in made and "<script" not in made
    table = made.partition("<tbody>")[2]
    order = [table.index(f">{value}<") for value in ("1.25", "1.5", "0.5")]
    assert order == sorted(order)
    # A span of 100 is drawn on a log scale: both ends of the axis.
    assert 'd="M0.00 0.00h0"' in made and 'd="M100.00 40.00h0"' in made

"""The rates and ratios of bench/train.py; nothing is trained here."""

from types import ModuleType

import pytest

BENCH = "train"


def test_the_first_steps_do_not_move_a_rate(bench: ModuleType) -> None:
    slow = [100.0, 200.0, 300.0, 400.0, 500.0]
    at = [*slow, *(500.0 + 2 * i for i in range(1, 11))]
    tokens = [1, 2, 3, 4, 5, *(5 + 100 * i for i in range(1, 11))]
    assert bench.rate(at, tokens) == pytest.approx(50)


def test_a_run_of_warm_up_alone_has_no_rate(bench: ModuleType) -> None:
    with pytest.raises(ValueError, match="5 steps, of which the first 5 are warm-up"):
        bench.rate([1.0, 2.0, 3.0, 4.0, 5.0], [1, 2, 3, 4, 5])


def test_ratios_are_taken_within_a_round_and_their_median_counts(bench: ModuleType) -> None:
    rates = {"raystill": [90.0, 300.0, 97.0], "bare": [100.0, 400.0, 100.0], "raystill-kd": [45.0, 200.0]}
    runs = [bench.Run(arm, n, rate=value) for arm, values in rates.items() for n, value in enumerate(values)]
    runs += [bench.Run("kd-sparse", 0, seconds=3.0, bytes=10), bench.Run("kd-dense", 0, seconds=2.0, bytes=100)]
    runs += [bench.Run("trl-sft", 3, rate=50.0)]
    found = bench.summary(runs)
    assert found["bare_ratio"] == 0.9
    assert found["sparse_kd_step_ratio"] == 1.75
    assert (found["kd_memory_ratio"], found["kd_time_ratio"]) == (0.1, 1.5)
    assert found["trl_sft_ratio"] is None, "the only round of trl-sft has no raystill beside it"


def test_the_table_names_every_arm_and_every_ratio_that_is_there(bench: ModuleType) -> None:
    runs = [bench.Run("raystill", 0, rate=90.0), bench.Run("bare", 0, rate=100.0)]
    runs += [bench.Run("kd-sparse", 0, seconds=3.0, bytes=2_000_000)]
    said = "\n".join(bench.table(runs))
    assert "90.0 tokens/s" in said
    assert "2.0 MB" in said
    assert "bare_ratio" in said
    assert "torchrun_ratio" not in said

"""Ratios of bench/serve.py; nothing is served here."""

from types import ModuleType

import pytest

BENCH = "serve"


def test_a_ratio_is_taken_within_its_round_and_the_worse_load_counts(bench: ModuleType) -> None:
    rates = {("raystill", 1, 4): 90, ("vllm", 1, 4): 100, ("raystill", 2, 4): 40, ("vllm", 2, 4): 50,
             ("raystill", 1, 16): 99, ("vllm", 1, 16): 100, ("raystill", 2, 16): 1}  # fmt: skip
    runs = [bench.Run(arm, "m", n, users, rate, 1000 / rate, 1.0) for (arm, n, users), rate in rates.items()]
    assert bench.ratios(runs, "m", 4, "tokens_per_s") == [0.9, 0.8]
    assert bench.ratios(runs, "m", 16, "tokens_per_s") == [0.99], "a round with one arm has no ratio"
    assert bench.worst(runs, "m", "tokens_per_s", least=True) == 0.85
    assert bench.worst(runs, "m", "ttft_ms", least=False) == pytest.approx((1 / 0.9 + 1 / 0.8) / 2, abs=1e-3)
    assert bench.worst(runs, "other", "tokens_per_s", least=True) is None
    assert any("raystill / vllm, tokens_per_s" in line for line in bench.table(runs))


def test_a_gateways_overhead_is_ours_less_the_references(bench: ModuleType) -> None:
    own = [float(n) for n in range(1, 101)]
    found = bench.overhead_ms({"ours": [ms + 2 for ms in own], "own": own})
    assert found == {"gateway_overhead_ms_p50": 2.0, "gateway_overhead_ms_p95": 2.0}


def test_memory_grows_from_where_it_has_settled(bench: ModuleType) -> None:
    assert bench.growth_mb([(0, 0), (1000, 50_000_000), (2000, 60_000_000), (10_000, 63_000_000)]) == 3.0

"""The bench's windows and ratios; no engine starts here."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCH = "generate"


def run(bench: ModuleType, arm: str, model: str, number: int, tokens: int, first_s: float = 10.0) -> Any:
    return bench.Run(arm, model, number, tokens, tokens // 10, 10.0, first_s, 60.0, [0])


def test_a_window_counts_what_ended_inside_it_and_not_its_opening_answer(bench: ModuleType) -> None:
    steady = [(float(second), 10) for second in range(100, 111)]
    assert bench.window(steady, ramp=1, queue=0) == (100, 10, 10.0)
    assert bench.window(list(reversed(steady)), ramp=3, queue=4) == (40, 4, 4.0)


def test_start_and_tail_do_not_move_a_rate(bench: ModuleType) -> None:
    steady = [(100 + i * 0.5, 20) for i in range(200)]
    slow_start = [(0.0, 20), (50.0, 20)]
    tail = [(300.0, 20), (900.0, 20)]
    tokens, _, seconds = bench.window([*tail, *steady, *slow_start], ramp=3, queue=2)
    assert tokens / seconds == pytest.approx(40)


def test_too_few_answers_are_no_window(bench: ModuleType) -> None:
    with pytest.raises(ValueError, match="leave no window"):
        bench.window([(1.0, 5), (2.0, 5), (3.0, 5)], ramp=2, queue=1)
    with pytest.raises(ValueError, match="leave no window"):
        bench.window([(1.0, 5)] * 9, ramp=1, queue=1)


def test_rows_fill_whole_units_and_the_window(bench: ModuleType) -> None:
    assert (bench.unit_rows(5.0, 60), bench.unit_rows(80.0, 60)) == (64, 256)
    for per_s, unit in ((5.0, 64), (80.0, 256)):
        rows = bench.rows_for(per_s, 60, unit)
        assert rows % unit == 0
        assert 0 <= rows - (bench.MAX_NUM_SEQS + 60 * per_s + bench.QUEUE) < unit


def test_each_round_begins_with_another_arm_and_rays_own_come_once(bench: ModuleType) -> None:
    rounds = [bench.turned(bench.ARMS, n) for n in range(3)]
    assert set(rounds[0]) == set(bench.ARMS)
    assert [r[0] for r in rounds[1:]] == ["bare", "raystill"]
    assert all(set(r) == {"raystill", "bare"} for r in rounds[1:])
    assert bench.turned(["ray.data.llm"], 1) == []


def test_ratios_are_taken_within_a_round(bench: ModuleType) -> None:
    runs = [
        run(bench, "bare", "tiny", 0, 1000), run(bench, "raystill", "tiny", 0, 900),
        run(bench, "bare", "tiny", 1, 500), run(bench, "raystill", "tiny", 1, 500),
        run(bench, "bare", "tiny", 2, 800), run(bench, "raystill", "smollm2", 2, 1),
    ]  # fmt: skip
    assert bench.paired(runs, "tiny", "raystill", "bare") == [0.9, 1.0]
    assert bench.medians(runs, "raystill", "bare") == {"tiny": pytest.approx(0.95)}


def test_the_summary_takes_the_worse_model_and_names_it(bench: ModuleType) -> None:
    runs = [
        run(bench, "bare", "tiny", 0, 1000, 20.0), run(bench, "raystill", "tiny", 0, 900, 30.0),
        run(bench, "ray.data.llm", "tiny", 0, 600), run(bench, "ray.data.llm-default", "tiny", 0, 300),
        run(bench, "bare", "smollm2", 0, 100, 20.0), run(bench, "raystill", "smollm2", 0, 99, 50.0),
        run(bench, "ray.data.llm", "smollm2", 0, 90), run(bench, "ray.data.llm-default", "smollm2", 0, 110),
    ]  # fmt: skip
    made = bench.summary(runs)
    assert (made["text_ratio"], made["text_ratio_model"]) == (0.9, "tiny")
    assert (made["text_ratio_smollm2"], made["text_ratio_tiny"]) == (0.99, 0.9)
    assert made["ray_data_llm_ratio"] == made["ray_data_llm_default_ratio"] == 0.9  # its defaults were faster there
    assert made["cold_start_ratio"] == 2.5
    assert len(bench.table(runs)) == 1 + 8


def test_what_did_not_run_is_none(bench: ModuleType) -> None:
    assert set(bench.summary([run(bench, "raystill", "tiny", 0, 5)]).values()) == {None}
    assert len(bench.table([run(bench, "raystill", "tiny", 0, 50)])) == 2


def test_rows_are_the_same_each_time_and_never_asked_twice(bench: ModuleType, tmp_path: Path) -> None:
    for name, count in (("short", 4), ("long", 7)):
        bench.write_rows(tmp_path / name, ["a", "b", "c"], count, (16, 48))
    short, long = ((tmp_path / name).read_text() for name in ("short", "long"))
    assert long.startswith(short)
    assert len({line.split('"prompt"')[1] for line in long.splitlines()}) == 7

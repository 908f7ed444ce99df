"""bench/gpu_train.py: its arms on a CPU at a small size, and its ratios. What it says of a GPU is only said on one."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from raystill.training import gauges, peaks

BENCH = "gpu_train"
SMALL = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32,
    "intermediate_size": 128, "vocab_size": 600,
}  # fmt: skip


def job(bench: ModuleType, folder: Path) -> Any:
    return bench.Job(
        "small", SMALL, documents=3, length=16, micros=2, steps=5, positions=512, vocabulary=20_000, folder=str(folder)
    )


def test_a_step_counts_what_it_learns(bench: ModuleType, tmp_path: Path) -> None:
    small = job(bench, tmp_path)
    assert (small.tokens, small.supervised) == (96, 72)
    size = bench.job_of("0.6B", 1024, 12)
    assert (size.documents, size.micros, size.tokens) == (8, 2, 16_384)
    assert bench.job_of("4B", 1024, 12).tokens == 16_384
    micro = bench.packed(small, bench.documents_of(small, 0, 0, 600))
    assert len(micro.labels_N) * small.micros == small.supervised


def test_raystill_and_the_bare_loop_learn_the_same(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peaks, "bf16_flops", lambda name: 1e12)
    ours, plain, soft = (bench.RUN[arm](job(bench, tmp_path)) for arm in ("raystill", "bare", "raystill-kd"))
    assert len(ours.losses) == 5
    assert ours.losses == pytest.approx(plain.losses, rel=1e-5)
    assert ours.losses[0] == pytest.approx(6.4, abs=0.1)  # log 600
    assert soft.losses != pytest.approx(ours.losses, rel=0.01)
    work = gauges.work(bench.student(job(bench, tmp_path), "sdpa"))
    assert work is not None and ours.mfu == pytest.approx(work.flops([16] * 6, 72) / ours.seconds / 1e12)
    assert ours.tokens_per_s == pytest.approx(96 / ours.seconds)


def test_both_heads_learn_from_a_teacher(bench: ModuleType, tmp_path: Path) -> None:
    sparse, dense = (bench.RUN[arm](job(bench, tmp_path)) for arm in ("kd-sparse", "kd-dense"))
    assert sparse.seconds > 0 and dense.seconds > 0
    assert (sparse.arm, dense.arm) == ("kd-sparse", "kd-dense")


def test_ratios_are_times_or_bytes_of_two_arms(bench: ModuleType) -> None:
    def run(arm: str, seconds: float, held: int) -> Any:
        return bench.Run(arm, "4B", seconds, held, mfu=0.41 if arm == "raystill" else None)

    runs = [run("raystill", 2.0, 10), run("bare", 2.2, 20), run("raystill-kd", 2.1, 10)]
    runs += [run("kd-sparse", 1.0, 3), run("kd-dense", 0.8, 12)]
    found = bench.summary(runs)["4B"]
    assert found == {
        "mfu": 0.41, "bare_ratio": 1.1, "trl_sft_ratio": None, "sparse_kd_step_ratio": 1.05, "kd_memory_ratio": 0.25,
        "kd_time_ratio": 1.25,
    }  # fmt: skip
    assert "0.410" in "\n".join(bench.table(runs))


def test_it_needs_neither_ray_nor_deepspeed_nor_what_reads_recipes() -> None:
    """The arms that train import nothing but torch, transformers and what is light."""
    forbidden = ["ray", "deepspeed", "vllm", "pydantic", "pyarrow"]
    code = (
        "import sys\n"
        f"sys.modules |= dict.fromkeys({forbidden!r})\n"
        "sys.path.insert(0, 'bench')\n"
        "import gpu_train as bench\n"
        f"job = bench.Job('small', {SMALL!r}, 2, 8, 1, 4, positions=64, vocabulary=2000)\n"
        "made = [bench.RUN[arm](job) for arm in ('raystill', 'bare', 'raystill-kd', 'kd-sparse')]\n"
        "print([run.arm for run in made])\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "'kd-sparse'" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="TRL is not installed")
def test_trl_trains_on_the_same_documents(bench: ModuleType, tmp_path: Path) -> None:
    made = bench.RUN["trl"](job(bench, tmp_path))
    assert made.tokens_per_s == pytest.approx(96 / made.seconds)

import subprocess
import sys

from raystill.training import zero


def test_owned_keys_are_refused_with_the_line_that_sets_them() -> None:
    said = zero.refuse_owned(
        {"optimizer": {}, "zero_optimization": {"stage": 3, "overlap_comm": True}, "wall_clock": 1}
    )
    assert len(said) == 2
    assert "train.learning_rate" in said[0]
    assert "train.deepspeed.zero_optimization.stage" in said[1] and "compute.train.zero" in said[1]
    assert zero.refuse_owned({"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}) == []


def test_extra_keys_join_ours() -> None:
    merged = zero.settings(2, 1.0, 4, 100, False, {"zero_optimization": {"round_robin_gradients": True}, "x": 1})
    assert merged["zero_optimization"]["stage"] == 2
    assert merged["zero_optimization"]["round_robin_gradients"] is True
    assert merged["x"] == 1


def test_import_is_light() -> None:
    code = "import sys, raystill.training.zero; print({'torch', 'deepspeed', 'ray'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"

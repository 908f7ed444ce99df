"""Models that do not fit beside each other: the arithmetic, and what to type."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from raystill.artifacts import Checkpoint
from raystill.errors import ResourceError
from raystill.serving import fit
from raystill.serving.sharing import Host

GIB = 1 << 30


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "2")
    monkeypatch.setattr(fit.psutil, "virtual_memory", lambda: SimpleNamespace(available=5 * GIB))
    return monkeypatch


def host(name: str, model: Path, **engine: object) -> Host:
    return Host(name, Checkpoint(str(model), name), engine)


@pytest.mark.usefixtures("free")
def test_without_gpus_all_engines_share_this_machines_memory(tiny_model: Path) -> None:
    teacher, student = host("teacher", tiny_model), host("student", tiny_model)
    fit.refuse([teacher, student], [1, 1], None)
    with pytest.raises(ResourceError) as refused:
        fit.refuse([teacher, student], [1, 2], None)
    said = str(refused.value)
    assert "teacher (0.0 GB of weights and 2.1 GB of cache) + student 2 x (" in said
    assert "= 6.4 GB do not fit into this machine's 5.4 GB" in said
    assert "raystill serve RECIPE --model student" in said
    assert "evaluate: {together: false}" in said


@pytest.mark.usefixtures("free")
def test_what_cannot_be_told_is_left_to_the_engine() -> None:
    fit.refuse([host(str(n), Path("org/model")) for n in range(9)], [1] * 9, None)


def test_each_gpu_must_hold_its_share(tiny_model: Path) -> None:
    fit.refuse([host("student", tiny_model)], [1], 80 * GIB)
    with pytest.raises(
        ResourceError, match=r"student is too large to host: each GPU must hold .*tensor_parallel_size: 4\}"
    ):
        fit.refuse([host("student", tiny_model, tensor_parallel_size=2)], [1], 1 << 16)

"""Energy counters: a powercap folder as the kernel lays it out, and an NVML of the test's own, compiled on the spot."""

import shutil
import subprocess
from pathlib import Path

import pytest

from raystill import energy

NVML = """
static int device[2] = {0, 1};
int nvmlInit_v2(void) { return 0; }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned int *n) { *n = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int i, void **d) { *d = &device[i]; return 0; }
int nvmlDeviceGetTotalEnergyConsumption(void *d, unsigned long long *mj) {
  if (*(int *)d == 1) return 3;  /* NVML_ERROR_NOT_SUPPORTED */
  *mj = 5000000123ull;
  return 0;
}
"""


def zone(root: Path, folder: str, name: str, microjoules: str) -> None:
    (root / folder).mkdir(parents=True)
    (root / folder / "name").write_text(f"{name}\n")
    (root / folder / "energy_uj").write_text(f"{microjoules}\n")


def test_processors_are_counted_once(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", "1500000")
    zone(tmp_path, "intel-rapl:0:0", "core", "900000")
    zone(tmp_path, "intel-rapl:1", "psys", "9000000")
    assert energy.counters(tmp_path, "libnone.so") == {"package-0 (RAPL)": 1.5}


def test_a_machine_that_tells_nothing_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / "intel-rapl:0").mkdir()
    assert energy.counters(tmp_path, "libnone.so") == {}
    assert energy.spent([({}, {})]) == (None, None)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")
def test_gpus_are_asked_by_nvmls_own_functions(tmp_path: Path) -> None:
    (tmp_path / "nvml.c").write_text(NVML)
    library = tmp_path / "libnvml-of-the-test.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, tmp_path / "nvml.c"], check=True)
    assert energy.counters(tmp_path, str(library)) == {"GPU 0 (NVML)": 5000000.123}


def test_turns_add_up_and_a_counter_that_began_anew_is_no_figure() -> None:
    turns = [({"a": 1.0, "b": 2.0}, {"a": 2.0, "b": 4.0}), ({"a": 5.0, "b": 6.0}, {"a": 6.0, "b": 6.5})]
    assert energy.spent(turns) == (pytest.approx(4.5), "a, b")
    assert energy.spent([*turns, ({"a": 9.0, "b": 7.0}, {"a": 1.0, "b": 8.0})]) == (None, None)
    assert energy.spent([*turns, ({}, {})]) == (None, None)

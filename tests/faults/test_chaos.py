"""Five seeds of the nemesis; `make chaos` runs twenty."""

from pathlib import Path

import pytest
from chaos import chaos, on_s3

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_lost_doubled_or_swapped(seed: int, tmp_path: Path) -> None:
    rows = 2000
    outcome = on_s3(seed, tmp_path, rows) if seed % 3 == 2 else chaos(seed, tmp_path, rows, f"{tmp_path}/runs")
    assert outcome.done
    assert outcome.rejected == {"scripted error": 5, "ended its engine": 1}

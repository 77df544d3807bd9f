"""Every family runs in every dtype, and near what it gives in float32."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import dovetail
from run.tiny import RUNNABLE, SETTINGS, SIZES, output

pytestmark = pytest.mark.filterwarnings("ignore")
# How far off a run may be, of its largest number: some rounding errors of a dtype, one on the other.
NEAR = {"bfloat16": 3e-2, "float16": 4e-3, "float64": 3e-6}


@pytest.mark.parametrize("id", RUNNABLE)
def test_every_dtype_runs(id: str, tmp_path: Path) -> None:
    folder, settings = tmp_path / "model", SETTINGS.get(id)
    dovetail.make(id, folder, set=SIZES[id][0], dtype="float32", seed=1)
    expected = output(dovetail.load(folder, settings=settings)).double()
    for dtype, near in NEAR.items():
        found = output(dovetail.load(folder, dtype=dtype, settings=settings)).double()
        assert float((found - expected).abs().max() / expected.abs().max()) < near, dtype

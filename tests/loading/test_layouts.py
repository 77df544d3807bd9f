"""From every layout the same weights give bit-equal models and outputs."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from every_layout import every_layout
from run.tiny import RUNNABLE, SETTINGS, SIZES, is_finite_and_varied, output

pytestmark = pytest.mark.filterwarnings("ignore")
CASES = [(id, i) for id in RUNNABLE for i in range(len(SIZES[id]))]


def test_every_family_that_runs_has_a_tiny_model() -> None:
    assert set(RUNNABLE) <= SIZES.keys()


@pytest.mark.parametrize(("id", "case"), CASES)
def test_every_layout_gives_the_same_model(id: str, case: int, tmp_path: Path) -> None:
    settings = SETTINGS.get(id, {})
    models = every_layout(id, SIZES[id][case], tmp_path, settings=settings)
    _, first = next(models)
    weights, expected = first.state_dict(), output(first)
    assert is_finite_and_varied(expected)
    for _, model in models:
        found = model.state_dict()
        assert found.keys() == weights.keys()
        assert all(torch.equal(one, weights[name]) for name, one in found.items())
        assert torch.equal(output(model), expected)

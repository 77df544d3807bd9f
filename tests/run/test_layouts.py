"""From every layout the same weights give bit-equal models and outputs."""

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import dovetail
from dovetail.families import family
from dovetail.layout.blueprint import blueprint
from dovetail.models import MODELS
from run.tiny import SETTINGS, SIZES, is_finite_and_varied, output

pytestmark = pytest.mark.filterwarnings("ignore")
CASES = [(id, i) for id, sizes in SIZES.items() for i in range(len(sizes))]


def layouts(id: str, sizes: Any) -> list[str]:
    """The layouts that hold all parts of a model."""
    kinds = blueprint(family(id), sizes).kinds
    return [
        one.id
        for one in family(id).layouts
        if all(
            role in one.mounts and {mount.naming for mount in one.mounts[role]} & part.namings.keys()
            for role, part in kinds.items()
        )
    ]


def test_every_family_that_runs_has_a_tiny_model() -> None:
    assert SIZES.keys() == MODELS.keys()


@pytest.mark.parametrize(("id", "case"), CASES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_layout_gives_the_same_model(id: str, case: int, dtype: str, tmp_path: Path) -> None:
    sizes = SIZES[id][case]
    found = layouts(id, sizes)
    weights, expected = {}, None
    for layout in found:
        made = dovetail.make(id, tmp_path / layout, layout=layout, sizes=sizes, dtype=dtype, seed=3)
        model = dovetail.load(made.path, as_=f"{id}/{layout}", settings=SETTINGS.get(id))
        logits = output(model.float())
        if expected is None:
            weights, expected = model.state_dict(), logits
            assert is_finite_and_varied(logits)
        assert model.state_dict().keys() == weights.keys()
        assert all(torch.equal(one, weights[name]) for name, one in model.state_dict().items())
        assert torch.equal(logits, expected)
    assert found

"""Which parameters no loss reaches: what a model says is what autograd finds, parameter by parameter."""

from copy import deepcopy
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from dovetail.models.policies.policy import Policy
from models.every_model import CASES
from parity import randomise
from run.tiny import batch

pytestmark = pytest.mark.filterwarnings("ignore")
TRAINED = [name for name, case in CASES.items() if case.family not in ("siglip", "dinov2")]


def without_gradient(model: Any) -> set[str]:
    """The parameters that a loss over text and images leaves alone: no gradient, or one of zeros."""
    inputs = batch(model)
    if isinstance(model, Policy):
        targets = torch.randn(2, *model.action_shape, generator=torch.Generator().manual_seed(1))
        model.loss(inputs, targets, generator=torch.Generator().manual_seed(2)).backward()
    else:
        model.loss(inputs, inputs["tokens"] % 211).backward()
    return {name for name, one in model.named_parameters() if one.grad is None or not bool(one.grad.any())}


@pytest.mark.parametrize("name", TRAINED)
def test_what_a_model_says_is_what_autograd_finds(name: str, models: dict[str, Any]) -> None:
    model = randomise(deepcopy(models[name]))
    assert set(model.unreachable) == without_gradient(model)
    assert all(model.unreachable.values())

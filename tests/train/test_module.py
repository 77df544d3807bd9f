"""The module that the Trainer sees: the model's own loss, checkpointed or not, in one batch or in several."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import dovetail
from dovetail.errors import UsageError
from dovetail.train.module import TrainingModule, num_items
from models.every_model import CASES
from parity import assert_near
from run.tiny import batch

FAST = ("qwen3_vl-0", "pi0-0", "panovlm-bimamba")
MODELS = [
    pytest.param(name, marks=() if name in FAST else pytest.mark.slow)
    for name, case in CASES.items()
    if case.family not in ("siglip", "dinov2")
]


def made(model: Any) -> dict[str, Any]:
    """A batch to train on: tokens that follow one another, or actions."""
    inputs = batch(model)
    if "state" in inputs or "token_mask" in inputs:
        noise = torch.randn(len(inputs["tokens"]), *model.action_shape)
        return {"inputs": inputs, "targets": noise}
    counts = inputs["valid"] & (inputs["tokens"] >= 0) & (inputs["tokens"] < 211)
    return {"inputs": inputs, "targets": inputs["tokens"].masked_fill(~counts, -100)}


def gradients(module: TrainingModule, given: dict[str, Any], **more: Any) -> tuple[Any, dict[str, Any]]:
    torch.manual_seed(1)
    loss = module(**given, **more)["loss"]
    loss.backward()
    found = {name: one.grad for name, one in module.named_parameters()}
    module.zero_grad()
    return loss.detach(), found


@pytest.mark.parametrize("name", MODELS)
def test_checkpointing_changes_no_loss_and_no_gradient(name: str, tmp_path: Path) -> None:
    module = TrainingModule(CASES[name].loaded(tmp_path / "model"))
    given = made(module.model)
    loss, expected = gradients(module, given)
    module.gradient_checkpointing_enable()
    module.gradient_checkpointing_enable({"use_reentrant": False})
    assert module.is_gradient_checkpointing
    again, found = gradients(module, given)
    assert_near(again, loss)
    for one, gradient in expected.items():
        is_reached = one.removeprefix("model.") not in module.model.unreachable
        assert (gradient is not None) == is_reached, one
        if is_reached:
            assert_near(found[one], gradient)
    module.gradient_checkpointing_disable()
    assert not module.is_gradient_checkpointing


def test_blocks_are_computed_again_on_the_way_back(tmp_path: Path) -> None:
    module = TrainingModule(CASES["qwen3_vl-0"].loaded(tmp_path / "model"))
    runs: list[str] = []
    for part in ("text", "vision"):
        norm = getattr(module.model, part).blocks["1"].norm1
        norm.register_forward_hook(lambda *_, part=part: runs.append(part))
    given = made(module.model)
    gradients(module, given)
    assert sorted(runs) == ["text", "vision"]
    module.gradient_checkpointing_enable()
    gradients(module, given)
    assert sorted(runs) == ["text"] * 3 + ["vision"] * 3


def test_parts_of_a_batch_add_up_to_it(tmp_path: Path) -> None:
    module = TrainingModule(CASES["qwen3-0"].loaded(tmp_path / "model"))
    rows = [[5, 9, 200, 4], [8, 3]]
    whole = made_of(module.model, rows)
    parts = [made_of(module.model, [row]) for row in rows]
    assert (num_items(whole), [num_items(part) for part in parts]) == (4, [3, 1])
    loss, expected = gradients(module, whole)
    for part in parts:
        module(**part, num_items_in_batch=4)["loss"].backward()
    for name, one in module.named_parameters():
        assert_near(one.grad, expected[name])
    assert_near(module(**whole, is_scored=True)["loss"].detach() / 4, loss)


def made_of(model: Any, rows: list[list[int]]) -> dict[str, Any]:
    inputs = model.prepare(rows)  # padded on the left: the first token follows padding
    return {"inputs": inputs, "targets": inputs["tokens"].masked_fill(~inputs["valid"], -100)}


def test_scores_count_tokens_and_whole_answers(tmp_path: Path) -> None:
    module = TrainingModule(CASES["qwen3-0"].loaded(tmp_path / "model"))
    with torch.no_grad():
        first = int(module.model(**module.model.prepare([[5, 9]]))[0, -1].argmax())
        second = int(module.model(**module.model.prepare([[5, 9, first]]))[0, -1].argmax())
    given = made_of(module.model, [[5, 9, first, second], [5, 9, first, (second + 1) % 211], [7, 7, 7, 7]])
    given["targets"][:, :2] = -100
    given["targets"][2] = -100
    found = {name: float(one) for name, one in module(**given, is_scored=True).items()}
    del found["loss"]
    assert found == {"items": 4, "right": 3, "rows": 2, "exact": 1}


def test_what_has_no_loss_is_refused(tmp_path: Path) -> None:
    tower = CASES["siglip-0"].loaded(tmp_path / "tower")
    with pytest.raises(UsageError, match="has no loss: there is nothing to train it by"):
        TrainingModule(tower)


def test_a_copy_is_checkpointed_by_itself(tmp_path: Path) -> None:
    module = TrainingModule(dovetail.load(CASES["qwen3-0"].made(tmp_path / "model")))
    module.gradient_checkpointing_enable()
    copied = deepcopy(module)
    copied.gradient_checkpointing_disable()
    assert module.is_gradient_checkpointing

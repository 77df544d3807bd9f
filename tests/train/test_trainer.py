"""The Trainer of transformers on our models: accumulation, rates of parts, evaluation, what it saves."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import dovetail
from dovetail.errors import UsageError
from dovetail.train.module import TrainingModule
from dovetail.train.trainer import Trainer
from models.every_model import CASES
from parity import assert_near

ROWS = [
    [5, 9, 200, 4],
    [8, 3],
    [7, 7, 7, 7, 7, 1],
    [1, 2, 6],
    [3, 3],
    [9, 1, 8, 2, 0, 5, 5],
    [4, 4, 4],
    [6, 0],
]


class Collate:
    """Rows of tokens, each of which is predicted."""

    def __init__(self, inputs: Any) -> None:
        self.inputs = inputs

    def __call__(self, rows: list[list[int]]) -> dict[str, Any]:
        arrays = self.inputs(rows, pad="right")
        return {"inputs": arrays, "targets": np.where(arrays["valid"], arrays["tokens"], -100)}


def trainer(path: Path, out: Path, *, rates: Any = None, **args: Any) -> Trainer:
    given = {
        "output_dir": str(out),
        "use_cpu": True,
        "remove_unused_columns": False,
        "report_to": [],
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "max_steps": 2,
        "learning_rate": 1e-2,
        "optim": "sgd",
        "lr_scheduler_type": "constant",
        **args,
    }
    module = TrainingModule(dovetail.load(path))
    return Trainer(
        module,
        transformers.TrainingArguments(**given),
        data=ROWS,
        val_data=ROWS[:3],
        collate=Collate(module.model.inputs),
        like=path,
        rates=rates,
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory: Any) -> Path:
    return CASES["qwen3-0"].made(tmp_path_factory.mktemp("model") / "qwen3")


def losses(one: Trainer) -> list[float]:
    return [entry["loss"] for entry in one.state.log_history if "loss" in entry]


def test_accumulation_equals_one_large_batch(path: Path, tmp_path: Path) -> None:
    """Rows of many lengths in batches of one, four of them to a step."""
    whole = trainer(path, tmp_path / "a", per_device_train_batch_size=4)
    parts = trainer(path, tmp_path / "b", per_device_train_batch_size=1, gradient_accumulation_steps=4)
    whole.train()
    parts.train()
    assert losses(parts) == pytest.approx(losses(whole), abs=1e-5)
    before = dict(dovetail.load(path).named_parameters())
    for (name, one), other in zip(
        whole.module.model.named_parameters(), parts.module.model.parameters(), strict=True
    ):
        assert_near(other.detach(), one.detach())
        assert not torch.equal(one, before[name]), name


def test_every_part_has_its_rate_and_only_matrices_decay(path: Path, tmp_path: Path) -> None:
    one = trainer(path, tmp_path / "a", rates={"text": 0.5}, weight_decay=0.25, optim="adamw_torch")
    groups = one.create_optimizer().param_groups
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(0.5, 0.25), (0.5, 0.0)]
    assert {parameter.ndim for parameter in groups[0]["params"]} == {2}
    assert {parameter.ndim for parameter in groups[1]["params"]} == {1}


def test_evaluation_counts_every_target_once(path: Path, tmp_path: Path) -> None:
    """Whatever the batches are."""
    each = [
        trainer(path, tmp_path / str(size), per_device_eval_batch_size=size).evaluate() for size in (1, 2, 3)
    ]
    model = dovetail.load(path)
    inputs = model.prepare(ROWS[:3], pad="right")
    with torch.no_grad():
        loss = float(model.loss(inputs, inputs["tokens"].masked_fill(~inputs["valid"], -100)))
    for found in each:
        assert found["eval_loss"] == pytest.approx(loss, abs=1e-5)
        assert 0 <= found["eval_exact_answers"] <= found["eval_token_accuracy"] <= 1


def test_a_save_is_a_checkpoint_of_what_was_trained(path: Path, tmp_path: Path) -> None:
    one = trainer(path, tmp_path / "out", save_strategy="steps", save_steps=1)
    one.train()
    again = dovetail.load(tmp_path / "out" / "checkpoint-2")
    for mine, saved in zip(one.module.model.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, saved)


@pytest.mark.parametrize("name", ["label_smoothing_factor", "neftune_noise_alpha"])
def test_what_only_models_of_transformers_can_do_is_refused(path: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=f"`{name}` cannot be: "):
        trainer(path, tmp_path / "out", **{name: 0.1})

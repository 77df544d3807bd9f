"""A model can be copied, pickled, saved, averaged and sent to another process, and stays the same model."""

import io
import os
import pickle
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from commands import python
from dovetail.models import build
from models.every_model import CASES
from run.tiny import output

pytestmark = pytest.mark.filterwarnings("ignore")


def pickled(model: Any) -> Any:
    return pickle.loads(pickle.dumps(model))


def saved(model: Any) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def rebuilt(model: Any) -> Any:
    """From what the model was built from, and its saved weights."""
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    twin = build(model.values)
    twin.load_state_dict(torch.load(file, weights_only=True), assign=True)
    return twin.eval()


COPIES: list[Callable[[Any], Any]] = [deepcopy, pickled, saved, rebuilt]


@pytest.mark.parametrize("name", CASES)
def test_a_copy_is_the_same_model_with_weights_of_its_own(name: str, models: dict[str, Any]) -> None:
    model = models[name]
    expected, weights = output(model), model.state_dict()
    for copied in COPIES:
        twin = copied(model)
        assert torch.equal(output(twin), expected), copied
        assert {n: p.requires_grad for n, p in twin.named_parameters()} == {
            n: p.requires_grad for n, p in model.named_parameters()
        }
        own = twin.state_dict()
        assert own.keys() == weights.keys()
        assert not {one.data_ptr() for one in own.values()} & {one.data_ptr() for one in weights.values()}
        of_load = {"report", "tags"} if copied is rebuilt else set()  # what is known of the checkpoint
        assert vars(twin).keys() == vars(model).keys() - of_load
        if hasattr(model, "head_weight"):
            assert (twin.head_weight is twin.decoder.table) == (model.head_weight is model.decoder.table)


@pytest.mark.parametrize("name", CASES)
def test_a_pickle_holds_the_weights_and_little_more(name: str, models: dict[str, Any]) -> None:
    """A view of a file does not take the whole file along."""
    size = sum(one.nbytes for one in models[name].state_dict().values())
    assert len(pickle.dumps(models[name])) < size + 500 * len(models[name].state_dict()) + 60_000


@pytest.mark.parametrize("name", CASES)
def test_an_average_follows_the_model(name: str, models: dict[str, Any]) -> None:
    model = deepcopy(models[name])
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.25))
    average.update_parameters(model)  # the first one is a copy
    before = {one: weight.clone() for one, weight in model.named_parameters()}
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 1.5
    average.update_parameters(model)
    for one, weight in average.module.named_parameters():
        torch.testing.assert_close(weight, before[one] * (0.25 + 0.75 * 1.5))
    assert not torch.equal(output(average.module), output(models[name]))


CHILD = """
import pickle, sys
from pathlib import Path
from run.tiny import output
import torch
torch.set_num_threads(1)
for file in sorted(Path(sys.argv[1]).glob("*.pickle")):
    torch.save(output(pickle.loads(file.read_bytes())), file.with_suffix(".pt"))
"""


def test_another_process_runs_what_is_sent_to_it(models: dict[str, Any], tmp_path: Path) -> None:
    for name, model in models.items():
        (tmp_path / f"{name}.pickle").write_bytes(pickle.dumps(model))
    answer = python("-c", CHILD, tmp_path, PYTHONPATH=os.pathsep.join(sys.path))
    assert answer.code == 0, answer.err
    for name, model in models.items():
        assert torch.equal(torch.load(tmp_path / f"{name}.pt", weights_only=True), output(model)), name

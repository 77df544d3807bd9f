"""Inputs of every family are made without weights and without torch, and are those that models prepare."""

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dovetail
from dovetail.errors import CheckpointError
from dovetail.families import family
from files import MODELS, header_of, plan_of, write_listing
from inputs.every_family import CASES, LANGUAGE, TEXT, arrays_of, inputs_for, values_for

ROOT = Path(__file__).parents[2]

# Makes every family's inputs, uses them, takes them through a pickle, and says which packages are loaded.
SCRIPT = """
import pickle, sys
from inputs.every_family import CASES, arrays_of, inputs_for
for case in CASES:
    arrays_of(pickle.loads(pickle.dumps(inputs_for(*case))))
import dovetail.inputs.prompt, dovetail.inputs.robot, dovetail.inputs.statistics
print(len(CASES), *sorted(set(sys.modules) & {"torch", "transformers", "numpy"}))
"""


def loaded_by(script: str) -> list[str]:
    """What a script prints, in a process of its own that finds the tests' helpers."""
    path = [str(ROOT / "src"), str(ROOT / "tests")]
    program = f"import sys; sys.path[:0] = {path!r}\n{script}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_making_and_using_inputs_imports_no_torch() -> None:
    assert loaded_by(SCRIPT) == [str(len(CASES)), "numpy"]


def test_torch_would_be_seen() -> None:
    pytest.importorskip("torch")
    assert "torch" in loaded_by(f"import dovetail.models.text\n{SCRIPT}")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def test_a_pickle_makes_the_same_arrays(case: tuple[str, int]) -> None:
    one = inputs_for(*case)
    expected, found = arrays_of(one), arrays_of(pickle.loads(pickle.dumps(one)))
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def test_a_model_prepares_the_arrays_of_its_inputs(case: tuple[str, int]) -> None:
    torch = pytest.importorskip("torch")
    from dovetail.models import build

    values = values_for(*case)
    model: Any = build(values)
    assert type(model.inputs) is type(inputs_for(*case))
    arrays = arrays_of(model.inputs)
    tensors = arrays_of(Prepared(model))
    assert list(tensors) == list(arrays)
    for name, array in arrays.items():
        assert tensors[name].is_meta  # on the model's device
        assert tensors[name].shape == array.shape
        assert tensors[name].dtype == torch.from_numpy(array).dtype


class Prepared:
    """A model as if it were its inputs."""

    def __init__(self, model: Any) -> None:
        self.family = model.inputs.family
        self.image_token = getattr(model.inputs, "image_token", None)
        self.model = model

    def __call__(self, *given: Any, **more: Any) -> Any:
        return self.model.prepare(*given, **more)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case[0] in LANGUAGE], ids=lambda case: f"{case[0]}-{case[1]}"
)
@pytest.mark.parametrize("size", [(23, 31), (40, 12), (64, 64)])
def test_sizes_alone_say_what_a_row_becomes(case: tuple[str, int], size: tuple[int, int]) -> None:
    inputs = inputs_for(*case)
    image = np.zeros((*size, 3), np.uint8)
    row = [5, inputs.image_token, 7]
    expanded = inputs.expanded(row, [size])
    assert expanded.count(inputs.image_token) == inputs.num_features(*size)
    assert inputs([row], [[image]])["tokens"].tolist() == [expanded]
    assert inputs.expanded(expanded, [size]) == expanded


def test_a_header_is_enough(tmp_path: Path) -> None:
    header = header_of(plan_of("paligemma", MODELS["paligemma"][0]), "hf-4.52")
    listing = write_listing(tmp_path / "listing.json", header)
    inputs = dovetail.load_inputs(listing, settings={"image_token": 7})
    assert inputs.image_token == 7
    assert inputs.expanded([5, 7], [(20, 30)]) == [5, *[7] * 49]
    with pytest.raises(CheckpointError, match="no family that dovetail knows: nothing known fits"):
        dovetail.load_inputs(write_listing(tmp_path / "other.json", {"a.weight": ["BF16", [3, 5]]}))


def test_the_first_node_of_a_split_makes_the_inputs_of_the_whole(tmp_path: Path) -> None:
    """Though its head lies on another node."""
    pytest.importorskip("torch")
    sizes = {**MODELS["qwen2_vl"][0], "text.head_dim": 8, "head": "head"}
    dovetail.make("qwen2_vl", tmp_path / "whole", set=sizes, dtype="float32")
    dovetail.split(tmp_path / "whole", tmp_path / "nodes", nodes=2)
    settings = {"image_token": 100, "max_pixels": 6000, "mrope_section": [2, 1, 1]}
    places = [tmp_path / "whole", tmp_path / "nodes" / "node0"]
    whole, node = (arrays_of(dovetail.load_inputs(place, settings=settings)) for place in places)
    stage = dovetail.load_stage(places[1], settings=settings)
    prepared = arrays_of(Prepared(stage.model))
    for name, array in whole.items():
        np.testing.assert_array_equal(node[name], array)
        np.testing.assert_array_equal(prepared[name].numpy(), array)


def test_every_family_that_runs_says_what_makes_its_inputs() -> None:
    there = {id for id, _ in CASES}
    assert there >= {*LANGUAGE, *TEXT, "pi0", "pi05", "siglip", "dinov2"}
    assert family("qwen2_vl").inputs == "dovetail.inputs.qwen_vl:QwenVLInputs"

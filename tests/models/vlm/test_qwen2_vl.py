"""Qwen2-VL equals the recorded model; `test_qwen_vl_models.py` has transformers on tiny models of other shapes."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import dovetail.loading.load
from dovetail.errors import UsageError
from dovetail.inputs.mrope import mrope_positions
from dovetail.models.taps import tapped
from dovetail.run.engine import generate
from models.recorded import GOLDEN, recorded, rows_of, tensor
from parity import assert_near

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def io() -> dict[str, np.ndarray]:
    return recorded("qwen2_vl", images="qwen2_vl")


@pytest.fixture(scope="module")
def model(io: dict[str, np.ndarray]) -> Any:
    settings = {name: int(io[f"proc_{name}"]) for name in ("min_pixels", "max_pixels")}
    return dovetail.loading.load.load(GOLDEN / "qwen2_vl", settings=settings)


IMAGES = {"one": [["A"]], "two": [["A", "B"]], "text": (), "leftpad": [["A"], ["B"]]}


@pytest.mark.parametrize("case", IMAGES)
def test_the_recorded_model(model: Any, io: dict[str, np.ndarray], case: str) -> None:
    mask = io[f"{case}.attention_mask"]
    images = [[io[f"image{name}"] for name in row] for row in IMAGES[case]]
    inputs = model.prepare(rows_of(io[f"{case}.input_ids"], mask), images)
    where = tensor(mask).bool()
    assert torch.equal(inputs["tokens"][where], tensor(io[f"{case}.input_ids"])[where])
    assert torch.equal(inputs["valid"], where)
    seeing = ["vision", "merger"] if images else []
    with torch.no_grad(), tapped(model, *seeing) as taps:
        assert_near(model(**inputs), tensor(io[f"{case}.logits"]), where)
    if images:
        positions = tensor(io[f"{case}.position_ids"])
        assert torch.equal(inputs["positions"][:, where], positions[:, where])
        assert torch.equal(inputs["grids"], tensor(io[f"{case}.image_grid_thw"]))
        assert_near(taps["vision"], tensor(io[f"{case}.visual_pre_merger"]))
        assert_near(taps["merger"], tensor(io[f"{case}.visual"]))
    for chunk in (None, 3):
        found = generate(model, inputs, max_new_tokens=16, chunk=chunk)
        assert found == io[f"{case}.greedy"].tolist()


def test_one_placeholder_an_image_is_expanded(model: Any, io: dict[str, np.ndarray]) -> None:
    expanded = model.prepare([[9] + [500] * 6 + [4] + [500] * 14 + [8]], [[io["imageA"], io["imageB"]]])
    short = model.prepare([[9, 500, 4, 500, 8]], [[io["imageA"], io["imageB"]]])
    assert expanded.keys() == short.keys()
    assert all(torch.equal(short[name], expanded[name]) for name in short)


def test_positions_by_hand() -> None:
    """SYSTEMS T.4: text, text, start, an image of 2 x 3 features, end, text."""
    row = [1, 1, 2, *[9] * 6, 3, 1]
    assert mrope_positions(row, [(1, 4, 6)], 9, 2).tolist() == [
        [0, 1, 2, 3, 3, 3, 3, 3, 3, 6, 7],
        [0, 1, 2, 3, 3, 3, 4, 4, 4, 6, 7],
        [0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7],
    ]


def test_inputs_that_do_not_fit_are_refused(model: Any, io: dict[str, np.ndarray]) -> None:
    with pytest.raises(UsageError) as error:
        model.prepare([[5, 500, 500, 7]], [[io["imageA"]]])
    assert str(error.value) == (
        "a row holds token 500 2 times\n"
        "  expected  1 (one for each image) or 6 (one for each feature)\n\n"
        "hint: put the image token once where each image belongs"
    )
    with pytest.raises(UsageError, match="images are given for 1 rows, there are 2"):
        model.prepare([[500], [3]], [[io["imageA"]]])
    with pytest.raises(UsageError, match="a row holds token 501, a video; videos are not written here"):
        model.prepare([[5, 501]])
    inputs = model.prepare([[5, 7]])
    with pytest.raises(UsageError, match="the image tokens do not match the images"):
        model(**{**inputs, "tokens": torch.tensor([[5, 500]])})

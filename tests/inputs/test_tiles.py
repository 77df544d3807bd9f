"""LLaVA-OneVision's tiles equal to the recorded ones, and to transformers' own processor on any size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.inputs.tiles import best_resolution, pinpoints, square, tiles
from inputs.golden_images import golden, noise, table

FOUR = pinpoints(56, most=4)


def test_the_default_resolutions_are_the_published_ones() -> None:
    assert [list(one) for one in pinpoints(384)] == table("anyres_table")["pinpoints"]


def test_resolutions_are_the_recorded_ones() -> None:
    recorded = table("anyres_table")
    assert recorded["cols"][:4] == ["h", "w", "best_h", "best_w"]
    for height, width, *expected, _ in recorded["rows"]:
        assert list(best_resolution(height, width, resolutions=pinpoints(384))) == expected, (height, width)


@pytest.mark.parametrize("case", ["square", "wide", "tall", "big"])
def test_tiles_are_the_recorded_ones(case: str) -> None:
    recorded = golden("llava_onevision")
    found = tiles(recorded[f"img_{case}"], 56, resolutions=FOUR)
    np.testing.assert_array_equal(found, recorded[f"{case}.pixel_values"][0])


def test_several_images_are_squares_as_recorded() -> None:
    recorded = golden("llava_onevision")
    found = np.stack([square(recorded[f"img_{name}"], 56) for name in ("square", "wide")])
    np.testing.assert_array_equal(found, recorded["multi.pixel_values"])


@given(size=st.tuples(st.integers(1, 150), st.integers(1, 150)))
@settings(max_examples=30)
def test_tiles_and_squares_are_the_processor_of_transformers(size: tuple[int, int]) -> None:
    pytest.importorskip("transformers")
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
        LlavaOnevisionImageProcessorPil,
    )

    processor = LlavaOnevisionImageProcessorPil(
        size={"height": 28, "width": 28},
        image_grid_pinpoints=[list(one) for one in pinpoints(28, most=3)],
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    image = noise(*size)
    given_ = {"return_tensors": "np", "input_data_format": "channels_last"}
    expected = processor.preprocess([image], **given_)["pixel_values"]
    np.testing.assert_array_equal(tiles(image, 28, resolutions=pinpoints(28, most=3))[None], expected)
    expected = processor.preprocess([[image, image]], **given_)["pixel_values"]
    np.testing.assert_array_equal(np.stack([square(image, 28)] * 2), expected)

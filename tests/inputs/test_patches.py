"""Qwen2-VL's patches equal to the recorded ones, and to transformers' own processor on any size."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.declare.blueprint import blueprint
from dovetail.errors import UsageError
from dovetail.families import family
from dovetail.inputs import build
from dovetail.inputs.patches import patches, smart_resize
from dovetail.inputs.values import values_from
from inputs.golden_images import golden, noise, table


def test_sizes_are_the_recorded_ones() -> None:
    recorded = table("smart_resize")
    assert recorded["cols"] == ["h", "w", "factor", "min_pixels", "max_pixels", "h2", "w2"]
    for height, width, factor, least, most, *expected in recorded["rows"]:
        found = smart_resize(height, width, factor=factor, min_pixels=least, max_pixels=most)
        assert list(found) == expected, (height, width, factor, least, most)


@pytest.mark.parametrize(("case", "names"), [("one", ["imageA"]), ("two", ["imageA", "imageB"])])
def test_patches_are_the_recorded_ones(case: str, names: list[str]) -> None:
    recorded = golden("qwen2_vl")
    bounds = {"min_pixels": int(recorded["proc_min_pixels"]), "max_pixels": int(recorded["proc_max_pixels"])}
    found = [patches(recorded[name], **bounds) for name in names]
    np.testing.assert_array_equal(
        np.concatenate([one.values for one in found]), recorded[f"{case}.pixel_values"]
    )
    assert [list(one.grid) for one in found] == recorded[f"{case}.image_grid_thw"].tolist()


@given(
    size=st.tuples(st.integers(1, 150), st.integers(1, 150)),
    patch=st.sampled_from([4, 14, 16]),
    merge=st.sampled_from([1, 2, 3]),
    frames=st.sampled_from([1, 2]),
)
@settings(max_examples=30)
def test_patches_are_the_processor_of_transformers(
    size: tuple[int, int], patch: int, merge: int, frames: int
) -> None:
    pytest.importorskip("transformers")
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    processor = Qwen2VLImageProcessorPil(
        size={"shortest_edge": 1000, "longest_edge": 9000},
        patch_size=patch,
        merge_size=merge,
        temporal_patch_size=frames,
    )
    image = noise(*size)
    expected = processor.preprocess(image, return_tensors="np", input_data_format="channels_last")
    found = patches(image, patch=patch, merge=merge, frames=frames, min_pixels=1000, max_pixels=9000)
    np.testing.assert_array_equal(found.values, expected["pixel_values"])
    assert list(found.grid) == expected["image_grid_thw"][0].tolist()


# family -> how transformers' processor is set up where it is published
PUBLISHED: dict[str, dict[str, Any]] = {
    "qwen2_vl": {},
    "qwen2_5_vl": {},
    "qwen3_vl": {
        "patch_size": 16,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "size": {"shortest_edge": 65_536, "longest_edge": 16_777_216},
    },
}


@pytest.mark.parametrize("size", [(210, 294), (31, 640), (700, 500)])
@pytest.mark.parametrize("id", PUBLISHED)
def test_declared_settings_are_those_of_the_published_processor(id: str, size: tuple[int, int]) -> None:
    pytest.importorskip("transformers")
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    one = family(id)
    made = build(values_from(blueprint(one, next(iter(one.sizes.values())))))
    image = noise(*size)
    processor = Qwen2VLImageProcessorPil(**PUBLISHED[id])
    expected = processor.preprocess(image, return_tensors="np", input_data_format="channels_last")
    arrays = made([[5, made.image_token]], [[image]])
    np.testing.assert_array_equal(arrays["pixels"], expected["pixel_values"])
    np.testing.assert_array_equal(arrays["grids"], expected["image_grid_thw"])
    assert made.num_features(*size) == len(arrays["pixels"]) // 4


def test_an_image_too_long_is_refused() -> None:
    assert smart_resize(1, 200) == (28, 812)
    with pytest.raises(UsageError) as error:
        smart_resize(1, 201)
    assert str(error.value) == (
        "the image is too long to be cut into patches\n"
        "  expected  edges in a ratio of at most 200\n"
        "  found     1 x 201\n\n"
        "hint: crop or pad it first"
    )


@pytest.mark.parametrize("bounds", [{"max_pixels": 0}, {"max_pixels": -1}, {"min_pixels": -5}])
def test_bounds_that_no_image_meets_are_refused(bounds: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="no image has so many pixels"):
        smart_resize(60, 90, **bounds)

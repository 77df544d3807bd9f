"""How many tokens inputs count on is how many the modules put out."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given
from hypothesis import strategies as st

from dovetail.errors import UsageError
from dovetail.inputs.grids import tallest_over
from dovetail.inputs.resampled import num_resampled
from dovetail.inputs.stitching import StitchConfig
from dovetail.models.resamplers import build_resampler
from dovetail.models.vlm.stitch import stitched
from files import MODELS
from inputs.every_family import values_for

NUMBERS = range(len(MODELS["panovlm"]))
KINDLESS = [{}, {"resampler__resampler_type": "avg"}, {"resampler__resampler_type": "identity"}]
MORE = [*KINDLESS, {"resampler__pool_size": 3}, {"resampler__pool_tokens": 10}, {"resampler__num_queries": 0}]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("more", MORE, ids=lambda more: "-".join(more) or "plain")
@pytest.mark.parametrize("patches", [16, 49, 256])
def test_resamplers(number: int, more: dict[str, Any], patches: int) -> None:
    values = values_for("panovlm", number, **more)
    with torch.device("meta"):
        module = build_resampler(values)
        found = module(torch.empty(1, patches, values.integer("vision.d_vision")))
    assert num_resampled(values, patches) == found.shape[1]


def test_squares_that_do_not_fit_are_refused() -> None:
    number = next(i for i in NUMBERS if "masked_drop" in str(MODELS["panovlm"][i]["resampler"]))
    with pytest.raises(UsageError, match="squares of 4 tokens do not fit into a view of 3 x 3"):
        num_resampled(values_for("panovlm", number), 9)


@given(
    views=st.integers(1, 5),
    tokens=st.integers(1, 40),
    overlap=st.floats(0, 1),
    mode=st.sampled_from(["concat", "stride_views", "drop_overlap", "resample"]),
    target=st.sampled_from([0, 1, 7]),
    is_narrow=st.booleans(),
)
def test_stitching(views: int, tokens: int, overlap: float, mode: str, target: int, is_narrow: bool) -> None:
    config = StitchConfig(
        overlap_ratio=overlap,
        stitching_mode=mode,
        stitch_target_cols=target,
        stitch_target_to_view_width=is_narrow,
        stitch_interp="linear",
    )
    rows, columns = tallest_over(tokens)
    expected = views * tokens
    if rows * columns == tokens:
        expected = stitched(torch.zeros(1, views, rows, columns, 1), config).shape[1]
    assert config.num_tokens(views, tokens) == expected

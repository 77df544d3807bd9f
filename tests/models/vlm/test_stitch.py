"""Views are joined as loops over their columns, and torch's grid_sample, join them."""

import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from dovetail.errors import UsageError
from dovetail.inputs.stitching import StitchConfig
from dovetail.models.vlm.stitch import PositionConfig, positions, stitched
from parity import assert_near

SETTINGS: dict[str, Any] = {
    "overlap_ratio": 0.5,
    "stitching_mode": "stride_views",
    "stitch_target_cols": 0,
    "stitch_target_to_view_width": False,
    "stitch_interp": "linear",
}


def config(**changes: Any) -> StitchConfig:
    return StitchConfig(**{**SETTINGS, **changes})


def views(count: int, rows: int = 3, columns: int = 4) -> torch.Tensor:
    return torch.randn(2, count, rows, columns, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("overlap", "kept"), [(0.5, 2), (0.25, 3), (0.0, 4), (0.3, 3), (0.6, 2), (1.0, 0)])
@pytest.mark.parametrize("mode", ["stride_views", "drop_overlap"])
def test_later_views_lose_what_they_share(mode: str, overlap: float, kept: int) -> None:
    x = views(3)
    expected = [
        x[:, view, row, column]
        for row in range(3)
        for view in range(3)
        for column in range(0 if view == 0 else 4 - kept, 4)
    ]
    found = stitched(x, config(stitching_mode=mode, overlap_ratio=overlap))
    assert torch.equal(found, torch.stack(expected, dim=1))


def test_all_columns_row_by_row() -> None:
    x = views(3)
    expected = [x[:, view, row, column] for row in range(3) for view in range(3) for column in range(4)]
    assert torch.equal(stitched(x, config(stitching_mode="concat")), torch.stack(expected, dim=1))


def sampled(x: torch.Tensor, settings: StitchConfig) -> torch.Tensor:
    """CORA's blend by torch's grid_sample, corners aligned, nothing outside."""
    b, v, h, w, d = x.shape
    shared = round(w * settings.overlap_ratio)
    columns = settings.stitch_target_cols or v * w - (v - 1) * shared
    count = w if settings.stitch_target_to_view_width else columns
    total, weight = torch.zeros(b, h, count, d), torch.zeros(b, h, count, 1)
    for view in range(v):
        place = torch.linspace(0, columns - 1, count) - view * (w - shared)
        grid = torch.stack(
            torch.meshgrid(torch.linspace(-1, 1, h), 2 * place / (w - 1) - 1, indexing="ij")[::-1], dim=-1
        ).expand(b, -1, -1, -1)
        mode = "bilinear" if settings.stitch_interp == "linear" else "nearest"
        seen, there = (
            F.grid_sample(one, grid, mode=mode, padding_mode="zeros", align_corners=True)
            for one in (x[:, view].permute(0, 3, 1, 2), torch.ones(b, 1, h, w))
        )
        total += (seen * there).permute(0, 2, 3, 1)
        weight += there.permute(0, 2, 3, 1)
    return (total / weight.clamp(min=1e-6)).flatten(1, 2)


@pytest.mark.parametrize("interp", ["linear", "nearest"])
@pytest.mark.parametrize("overlap", [0.5, 0.25, 0.0])
@pytest.mark.parametrize("more", [{}, {"stitch_target_to_view_width": True}, {"stitch_target_cols": 7}])
def test_shared_columns_are_blended(interp: str, overlap: float, more: dict[str, Any]) -> None:
    settings = config(stitching_mode="resample", stitch_interp=interp, overlap_ratio=overlap, **more)
    x = views(3, columns=8)
    assert_near(stitched(x, settings), sampled(x, settings), atol=1e-5)


@pytest.mark.parametrize("continuous", [True, False])
@pytest.mark.parametrize("spatial", ["sinusoidal", "none"])
@pytest.mark.parametrize("width", [6, 7])
def test_positions_written_out(continuous: bool, spatial: str, width: int) -> None:
    settings = PositionConfig(
        pe_enable_continuity=continuous,
        pe_spatial_encoding_type=spatial,
        pe_temperature=100.0,
        overlap_ratio=0.25,
    )
    found = positions(3, 2, 4, width, settings)
    assert found.shape == (3, 2, 4, width)
    overlap = 0.25 if continuous else 0.0

    def waves(place: float) -> list[float]:
        angles = [place * 100.0 ** (-2 * i / width) for i in range(width // 2)]
        return [*map(math.sin, angles), *map(math.cos, angles), *[0.0] * (width % 2)]

    for view in range(3):
        for row in range(2):
            for column in range(4):
                place = view * (1 - overlap) + column / 4
                expected = torch.tensor(waves(2 * math.pi * place / (3 - 2 * overlap)))
                if spatial == "sinusoidal":
                    expected += torch.tensor(waves(row)) + torch.tensor(waves(place))
                assert_near(found[view, row, column], expected, atol=1e-6)
    shared = torch.equal(found[0, :, 3], found[1, :, 0])
    assert shared is continuous


def test_what_is_not_written_is_refused() -> None:
    with pytest.raises(UsageError, match="no way to stitch is called `glue`"):
        stitched(views(2), config(stitching_mode="glue"))
    with pytest.raises(UsageError, match="no interpolation is called `cubic`"):
        stitched(views(2), config(stitching_mode="resample", stitch_interp="cubic"))

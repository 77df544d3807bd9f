"""How PanoVLM joins the views of a panorama: positions that run on from view to view, then a stitch.

    b  batch    v  views, each overlapping the one before    h w  rows and columns of tokens    d  width
    k  columns that two neighbours share: round(w * overlap)

    views of 4 columns that share 2         0 1 2 3
                                                2 3 4 5
    concat                                  0 1 2 3 2 3 4 5      all columns, row by row
    stride_views                            0 1 2 3 4 5          the first k columns of later views left out
    resample                                0 1 2 3 4 5          shared columns averaged, weighted

Sources: wooseungw/panollava@48559af `src/cora/model/{projectors,positional}.py`, @ab73e9e
`legacy/src_panovlm/models/vision/stitching.py`.
"""

import math
from dataclasses import dataclass

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from dovetail.errors import UsageError
from dovetail.inputs.stitching import StitchConfig

INTERPOLATIONS = ("nearest", "linear")


def stitched(x: Float[Tensor, "b v h w d"], config: StitchConfig) -> Float[Tensor, "b n d"]:
    """The tokens of all views, row after row.

    Raises:
        UsageError: there is no such way to stitch or to interpolate.
    """
    shared = config.shared(x.shape[3])
    if config.mode == "resample":
        joined = _resampled(x, shared, config)
    elif config.mode == "concat":
        joined = rearrange(x, "b v h w d -> b h (v w) d")
    else:
        parts = [x[:, 0], *(x[:, view, :, shared:] for view in range(1, x.shape[1]))]
        joined = torch.cat(parts, dim=2)
    return rearrange(joined, "b h w d -> b (h w) d")


def _resampled(x: Float[Tensor, "b v h w d"], shared: int, config: StitchConfig) -> Float[Tensor, "b h t d"]:
    """Every column of the panorama out of the views that show it.

    A view counts by the square of how much of it is there, because the edge of what is sampled is
    faded to zero before it is weighted.
    """
    views, width = x.shape[1], x.shape[3]
    step = (width - shared) or width
    columns = config.stitch_target_cols or views * width - (views - 1) * shared
    count = width if config.stitch_target_to_view_width else columns
    place = torch.linspace(0, columns - 1, count, device=x.device)[None, :, None]
    place = place - step * torch.arange(views, device=x.device)[:, None, None]  # v t 1
    index = torch.arange(width, device=x.device)
    match config.stitch_interp:
        case "linear":
            share = (1 - (place - index).abs()).clamp(min=0)
        case "nearest":
            share = (place.round() == index).float()
        case other:
            raise UsageError(f"no interpolation is called `{other}`", hint=", ".join(INTERPOLATIONS))
    weight = share.sum(dim=2, keepdim=True)
    mean = share * weight / weight.sum(dim=0, keepdim=True).clamp(min=1e-6)
    return einsum(mean.to(x.dtype), x, "v t w, b v h w d -> b h t d")


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionConfig:
    """What positions are added before the projector. `overlap_ratio` counts if they are continuous."""

    pe_enable_continuity: bool
    pe_spatial_encoding_type: str
    pe_temperature: float
    overlap_ratio: float


def positions(
    views: int, rows: int, columns: int, width: int, config: PositionConfig
) -> Float[Tensor, "v h w d"]:
    """Sines and cosines of the longitude and, if so configured, of the row and the column.

    A column of the panorama has one longitude, whichever view shows it.
    """
    overlap = min(max(config.overlap_ratio, 0), 0.999) if config.pe_enable_continuity else 0.0
    place = torch.arange(views)[:, None] * (1 - overlap) + torch.arange(columns) / columns  # v w
    longitude = 2 * math.pi * place / (views - (views - 1) * overlap)
    yaw = sinusoid(longitude, width, config.pe_temperature)[:, None]
    if config.pe_spatial_encoding_type != "sinusoidal":
        return yaw.expand(-1, rows, -1, -1)
    row = sinusoid(torch.arange(rows).float(), width, config.pe_temperature)[None, :, None]
    return yaw + (row + sinusoid(place, width, config.pe_temperature)[:, None])


def sinusoid(place: Float[Tensor, "..."], width: int, temperature: float) -> Float[Tensor, "... width"]:
    """The sines, then the cosines of a place at falling frequencies; a last zero if the width is odd."""
    half = width // 2
    frequency = torch.exp(-math.log(temperature) * 2 * torch.arange(half) / width)
    angle = place[..., None] * frequency
    both = torch.cat([angle.sin(), angle.cos()], dim=-1)
    return torch.nn.functional.pad(both, (0, width - 2 * half))

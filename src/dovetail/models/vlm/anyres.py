"""How LLaVA-OneVision packs what the tower saw of an image's tiles: "anyres", and the pooling of videos.

    t  tiles    p  patches of a tile, edge x edge    d  d_model    m  features of an image

How large their grid is, and what is cut off of it, says `dovetail.inputs.anyres`.

Sources: arXiv:2408.03326 sec. 3.2; transformers@5.23.0 `modeling_llava_onevision.py:pack_image_features`,
`apply_pooling`.
"""

import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dovetail.inputs.anyres import Grid


def packed(
    views: Float[Tensor, "views p d"], grid: Grid, newline: Float[Tensor, " d"]
) -> Float[Tensor, "m d"]:
    """The features of an image: those of the whole, then those of its tiles, row after row."""
    whole, tiles = views[0], views[1:]
    edge = math.isqrt(views.shape[1])
    joined = rearrange(tiles, "(i j) (h w) d -> 1 d (i h) (j w)", i=grid.tiles[0], h=edge)
    top, left = grid.cut
    seen = joined[:, :, top : joined.shape[2] - top, left : joined.shape[3] - left]
    if seen.shape[2:] != grid.size:
        seen = F.interpolate(seen, grid.size, mode="bilinear")
    ends = newline.to(views.dtype)[None, :, None, None].expand(1, -1, seen.shape[2], 1)
    rows = rearrange(torch.cat([seen, ends], dim=3), "1 d h w -> (h w) d")
    return torch.cat([whole, rows])


def pooled(frames: Float[Tensor, "frames p d"]) -> Float[Tensor, "frames q d"]:
    """The features of each frame of a video, on a grid of half the edge, rounded up."""
    edge = math.isqrt(frames.shape[1])
    half = math.ceil(edge / 2)
    grid = rearrange(frames, "frames (h w) d -> frames d h w", h=edge)
    return rearrange(F.interpolate(grid, (half, half), mode="bilinear"), "frames d h w -> frames (h w) d")

"""Qwen3-VL's vision tower: learned positions for grids of any size, and features of several depths.

    p  patches of all images    d  d_vision    v  values of a patch    n  positions of the table

To every patch a learned vector for its place is added. The table is a square of such vectors, stretched
over the image from corner to corner and interpolated bilinearly. Besides, queries and keys are turned by
row and column as in Qwen2-VL (`grids.py`). A patch sees the patches of its own frame and no others.

The tower puts out its last block, and the blocks that the deepstack mergers stand behind: the decoder adds
what those make of them to the image tokens after its first layers (arXiv:2406.04334).

Sources: transformers@5.23.0 `modeling_qwen3_vl.py`, `vision_utils.py`; arXiv:2511.21631 sec. 2.
transformers 4.57 rounds the weights of the interpolation to the type of the table; since 5.23 they and
the sum are float32, as here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.errors import UsageError
from dovetail.models.blocks import Blocks
from dovetail.models.layers import LayerNorm
from dovetail.models.towers.grids import (
    MERGER_EPS,
    Block,
    Merger,
    MergerConfig,
    PatchEmbed,
    frame_lengths,
    grid_rotation,
    in_merge_order,
)
from dovetail.models.towers.vit import Table, edge_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Qwen3VitConfig:
    """The sizes and settings of the tower, by the names of its declaration."""

    layers: int
    d_vision: int
    heads: int
    d_ff: int
    patch: int
    frames: int
    channels: int
    positions: int
    norm_eps: float
    activation: str


class Depths(NamedTuple):
    """The features after the last layer, and those after layers inside."""

    last: Float[Tensor, "p d"]
    inner: list[Float[Tensor, "p d"]]


class Qwen3Vit(nn.Module):
    """The tower; `inner` are the layers whose features it puts out besides the last ones."""

    def __init__(self, config: Qwen3VitConfig, merge: int, inner: Sequence[int]) -> None:
        super().__init__()
        self.config = config
        self.merge = merge
        self.inner = tuple(inner)
        if sorted({*inner} & {*range(config.layers)}) != list(inner):
            raise UsageError(
                f"features cannot be taken after the layers {list(inner)}",
                expected=f"ascending numbers of layers, 0 to {config.layers - 1}",
                hint="give --set deepstack.vision_layers=A,B,C",
            )
        d, sizes = config.d_vision, {"heads": config.heads, "d_ff": config.d_ff}
        self.patch_embed = PatchEmbed(
            d, channels=config.channels, frames=config.frames, patch=config.patch, bias=True
        )
        self.pos_embed = Table(config.positions, d)
        self.blocks = Blocks(
            {
                str(i): Block(d, **sizes, act=config.activation, eps=config.norm_eps)
                for i in range(config.layers)
            }
        )

    def forward(self, patches: Float[Tensor, "p v"], grids: Int[Tensor, "images 3"]) -> Depths:
        """The features of the patches of all images; `grids` counts each one's frames, rows, columns."""
        lengths = frame_lengths(grids)
        by = grid_rotation(grids, width=self.config.d_vision // self.config.heads, merge=self.merge)
        x = self.patch_embed(patches)
        x = x + self.positions(grids).to(x.dtype)
        inner = []
        for i, block in enumerate(self.blocks.values()):
            x = block(x, by, lengths)
            if i in self.inner:
                inner.append(x)
        return Depths(x, inner)

    def positions(self, grids: Int[Tensor, "images 3"]) -> Float[Tensor, "p d"]:
        """The vector for the place of every patch; the same in all frames of an image."""
        table = self.pos_embed.weight
        pieces = []
        for frames, rows, columns in grids.tolist():
            image = rearrange(stretched(table, rows, columns), "r c d -> d r c")
            pieces.append(in_merge_order(image, self.merge).T.repeat(frames, 1))
        return torch.cat(pieces)


def stretched(table: Float[Tensor, "n d"], rows: int, columns: int) -> Float[Tensor, "rows columns d"]:
    """A square table over a grid of another size, the corners on the corners, in float32 or wider."""
    wide = table if table.dtype == torch.float64 else table.float()
    square = rearrange(wide, "(r c) d -> 1 d r c", r=edge_of(len(table)))
    grid = F.interpolate(square, (rows, columns), mode="bilinear", align_corners=True)
    return rearrange(grid, "1 d r c -> r c d")


def qwen3_merger(config: MergerConfig) -> Merger:
    """The merger behind the last layer, with a LayerNorm of every patch."""
    return Merger(config, LayerNorm(config.d_in, eps=MERGER_EPS))


def deepstack_merger(config: MergerConfig) -> Merger:
    """A merger behind a layer inside, with a LayerNorm of the patches side by side."""
    norm = LayerNorm(config.merge_area * config.d_in, eps=MERGER_EPS)
    return Merger(config, norm, norms_joined=True)

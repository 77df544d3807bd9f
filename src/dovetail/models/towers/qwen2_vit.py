"""Qwen2-VL's vision tower, for images of any size, and the merger that joins 2 x 2 of its patches.

    b  batch (1)    p  patches of all images    d  d_vision    h  heads    c  head width
    v  values of a patch

Patches come flattened and in the order of the merger (`dovetail.inputs.patches`). The tower has no learned
positions: half of a head's channels turn with the patch's row, half with its column. A patch sees the
patches of its own frame and no others.

Sources: transformers@5.23.0 `modeling_qwen2_vl.py`; arXiv:2409.12191 sec. 2.1. The paper names only
the MLP of the merger; the published models have a norm before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.models.attention import attend
from dovetail.models.blocks import Blocks
from dovetail.models.layers import LayerNorm, Linear
from dovetail.models.rotary import Rotation, frequencies, rotate, sectioned_rotation
from dovetail.models.towers.vit import Mlp

THETA = 10_000.0
MERGER_EPS = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Qwen2VitConfig:
    """The sizes and settings of the tower, by the names of its declaration."""

    layers: int
    d_vision: int
    heads: int
    d_ff: int
    patch: int
    frames: int
    channels: int
    norm_eps: float
    activation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MergerConfig:
    """The sizes of the merger; it joins `merge_area` patches."""

    d_in: int
    d_out: int
    merge_area: int

    @property
    def edge(self) -> int:
        """How many patches it joins each way."""
        return isqrt(self.merge_area)


class PatchEmbed(nn.Module):
    """A linear map of a flattened patch; stored as a 3-D convolution over (frame, row, column)."""

    def __init__(self, config: Qwen2VitConfig) -> None:
        super().__init__()
        edges = (config.frames, config.patch, config.patch)
        self.weight = nn.Parameter(torch.empty(config.d_vision, config.channels, *edges))

    def extra_repr(self) -> str:
        return ", ".join(map(str, self.weight.shape))

    def forward(self, patches: Float[Tensor, "p v"]) -> Float[Tensor, "p d"]:
        return F.linear(patches.to(self.weight.dtype), self.weight.flatten(1))


class Attention(nn.Module):
    """Attention among the patches of each frame."""

    def __init__(self, config: Qwen2VitConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.qkv = Linear(config.d_vision, 3 * config.d_vision)
        self.o = Linear(config.d_vision, config.d_vision)

    def forward(self, x: Float[Tensor, "p d"], by: Rotation, lengths: Sequence[int]) -> Float[Tensor, "p d"]:
        q, k, v = rearrange(self.qkv(x), "p (three h c) -> three 1 h p c", three=3, h=self.heads)
        q, k = (rotate(one.float(), by).to(x.dtype) for one in (q, k))
        frames = zip(*(one.split(list(lengths), dim=2) for one in (q, k, v)), strict=True)
        y = torch.cat([attend(*frame) for frame in frames], dim=2)
        return self.o(rearrange(y, "1 h p c -> p (h c)"))


class Block(nn.Module):
    """One layer: attention and MLP, each after its norm and around a residual."""

    def __init__(self, config: Qwen2VitConfig) -> None:
        super().__init__()
        self.norm1 = LayerNorm(config.d_vision, eps=config.norm_eps)
        self.attn = Attention(config)
        self.norm2 = LayerNorm(config.d_vision, eps=config.norm_eps)
        self.mlp = Mlp(config.d_vision, config.d_ff, config.activation)

    def forward(self, x: Float[Tensor, "p d"], by: Rotation, lengths: Sequence[int]) -> Float[Tensor, "p d"]:
        x = x + self.attn(self.norm1(x), by, lengths)
        return x + self.mlp(self.norm2(x))


class Qwen2Vit(nn.Module):
    """The tower. It puts out the last block as it is: the norm belongs to the merger."""

    def __init__(self, config: Qwen2VitConfig, merge: int) -> None:
        super().__init__()
        self.config = config
        self.merge = merge
        self.patch_embed = PatchEmbed(config)
        self.blocks = Blocks({str(i): Block(config) for i in range(config.layers)})

    def forward(self, patches: Float[Tensor, "p v"], grids: Int[Tensor, "images 3"]) -> Float[Tensor, "p d"]:
        """The features of the patches of all images; `grids` counts each one's frames, rows, columns."""
        lengths = [rows * columns for frames, rows, columns in grids.tolist() for _ in range(frames)]
        by = self.rotation(grids)
        x = self.patch_embed(patches)
        for block in self.blocks.values():
            x = block(x, by, lengths)
        return x

    def rotation(self, grids: Int[Tensor, "images 3"]) -> Rotation:
        """The rotation of every patch: the first half of the angles by its row, the second by its column."""
        places = torch.cat([_places(grid, self.merge) for grid in grids.tolist()], dim=1).to(grids.device)
        half = self.config.d_vision // self.config.heads // 2
        axis = frequencies(half, THETA, device=grids.device)
        return sectioned_rotation(places[:, None], axis.repeat(2), [len(axis)] * 2, torch.float32)


def _places(grid: Sequence[int], merge: int) -> Int[Tensor, "2 p"]:
    """The row and column of every patch of an image, one merge window after the other."""
    frames, rows, columns = grid
    places = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"))
    windows = rearrange(places, "two (h i) (w j) -> two (h w i j)", i=merge, j=merge)
    return windows.repeat(1, frames)


class Merger(nn.Module):
    """Neighbouring patches side by side, through an MLP of their common width, to the decoder's width."""

    def __init__(self, config: MergerConfig) -> None:
        super().__init__()
        self.area = config.merge_area
        width = config.merge_area * config.d_in
        self.norm = LayerNorm(config.d_in, eps=MERGER_EPS)
        self.fc1 = Linear(width, width)
        self.fc2 = Linear(width, config.d_out)

    def forward(self, x: Float[Tensor, "p d"]) -> Float[Tensor, "merged out"]:
        joined = rearrange(self.norm(x), "(merged area) d -> merged (area d)", area=self.area)
        return self.fc2(F.gelu(self.fc1(joined)))

"""CLIP's vision tower, as transformers runs it.

    b  batch    n  patches, row after row    m  tokens: the class, then the patches    d  d_vision

Unlike SigLIP it has a class token, a norm before the blocks, no bias in its patches and a GELU of its own
(quick_gelu). The norm after the blocks is for the pooled class token, which nobody here asks for.

Sources: arXiv:2103.00020; transformers@5.23.0 `modeling_clip.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dovetail.inputs.values import Values, fill
from dovetail.models.blocks import Blocks
from dovetail.models.layers import Conv2d, LayerNorm
from dovetail.models.towers.vit import Block, Output, Table, resampled, through


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipConfig:
    """The sizes and settings of a tower; one of the `positions` is the class token's."""

    d_vision: int
    layers: int
    heads: int
    d_ff: int
    patch: int
    positions: int
    channels: int
    norm_eps: float
    activation: str
    antialias: bool
    image_size: int


class ClipTower(nn.Module):
    """A class token and patches with positions, a norm, blocks, a norm."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        d, patch, eps = config.d_vision, config.patch, config.norm_eps
        self.class_embedding = nn.Parameter(torch.empty(d))
        self.patch_embed = Conv2d(config.channels, d, patch, stride=patch, bias=False)
        self.pos_embed = Table(config.positions, d)
        self.pre_norm = LayerNorm(d, eps=eps)
        self.blocks = Blocks(
            {
                str(i): Block(d, heads=config.heads, d_ff=config.d_ff, act=config.activation, eps=eps)
                for i in range(config.layers)
            }
        )
        self.norm = LayerNorm(d, eps=eps)

    @property
    def image_size(self) -> int:
        """The edge in pixels that square images are resized to."""
        return self.config.image_size or math.isqrt(self.config.positions - 1) * self.config.patch

    def embed(self, pixels: Float[Tensor, "b channels height width"]) -> Float[Tensor, "b m d"]:
        """The class token and the patches with their positions, normed."""
        grid = self.patch_embed(pixels.to(self.patch_embed.weight.dtype))  # b d rows columns
        first, square = self.pos_embed.weight[:1], self.pos_embed.weight[1:]
        table = resampled(square, *grid.shape[2:], antialias=self.config.antialias)
        patches = grid.flatten(2).transpose(1, 2) + table
        token = (self.class_embedding + first).expand(len(pixels), 1, -1)
        return self.pre_norm(torch.cat([token, patches], dim=1))

    def forward(
        self, pixels: Float[Tensor, "b channels height width"], output: Output | Sequence[int] = "last"
    ) -> Float[Tensor, "b m d"]:
        return through(self.blocks, self.norm, self.embed(pixels), output)


def build_tower(values: Values, role: str) -> ClipTower:
    """The tower that fills a role.

    Raises:
        UsageError: the role is not there, or a value that it needs is not known.
    """
    assert values.kind(role) == "clip"
    return ClipTower(fill(ClipConfig, values, role))

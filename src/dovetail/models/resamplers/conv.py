"""PanoVLM's convolutional resampler: ConvNeXt blocks over the grid, then one token for all.

    b  batch (images times views)    n  tokens    d  out_dim

Tokens that fill no square are followed by zeros, which the convolutions see and the mean does not.

Sources: wooseungw/panollava@48559af `src/cora/model/resampler/resamplers.py:ConvResampler`;
arXiv:2201.03545 (ConvNeXt).
"""

from dataclasses import dataclass

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.inputs.grids import square_over
from dovetail.models.blocks import Chain
from dovetail.models.layers import Conv2d, LayerNorm, Linear
from dovetail.models.resamplers.grid import to_grid, to_tokens

NORM_EPS = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvConfig:
    """The sizes of a convolutional resampler. `resize`: whether it begins with a projection."""

    in_dim: int
    out_dim: int
    kernel: int
    repeats: int
    stages: int
    blocks: int
    resize: bool


class Block(nn.Module):
    """A filter for each channel, then an MLP over the channels, around a residual."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.dwconv = Conv2d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = LayerNorm(width, eps=NORM_EPS)
        self.pwconv1 = Linear(width, 4 * width)
        self.pwconv2 = Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "b d rows columns"]) -> Float[Tensor, "b d rows columns"]:
        y = self.norm(rearrange(self.dwconv(x), "b d h w -> b h w d"))
        return x + rearrange(self.pwconv2(F.gelu(self.pwconv1(y))), "b h w d -> b d h w")


def stages(config: ConvConfig) -> Chain:
    """All blocks once, stage by stage."""
    return Chain(
        *(
            Chain(*(Block(config.out_dim, config.kernel) for _ in range(config.blocks)))
            for _ in range(config.stages)
        )
    )


class Conv(nn.Module):
    """The resampler: one token out."""

    def __init__(self, config: ConvConfig) -> None:
        super().__init__()
        d = config.out_dim
        self.input_proj = Linear(config.in_dim, d) if config.resize else nn.Identity()
        self.repeated_stages = Chain(*(stages(config) for _ in range(config.repeats)))
        self.norm = LayerNorm(d, eps=NORM_EPS)
        self.head = Linear(d, d)

    def forward(self, x: Float[Tensor, "b n in_dim"]) -> Float[Tensor, "b 1 out_dim"]:
        grid = to_grid(self.input_proj(x), *square_over(x.shape[1]))
        tokens = to_tokens(self.repeated_stages(grid))[:, : x.shape[1]]
        return self.head(self.norm(tokens).mean(dim=1, keepdim=True))

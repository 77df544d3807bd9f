"""CORA's C-Abstractor: convolutions with channel attention before and after pooling the grid.

    b  batch (images times views)    n  tokens    d  hidden_dim    i  d_inner

Without queries nothing is pooled and as many tokens come out as went in. The grid is the pair of factors
of the number of tokens that are nearest to each other.

Sources: wooseungw/panollava@48559af `src/cora/model/resampler/c_abstractor.py`; arXiv:2312.06742
(Honeybee); arXiv:1709.01507 (squeeze and excitation).
"""

import math
from dataclasses import dataclass

from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.errors import UsageError
from dovetail.inputs.grids import nearest_factors
from dovetail.models.blocks import Chain
from dovetail.models.layers import Conv2d, LayerNorm, Linear
from dovetail.models.resamplers.grid import to_grid, to_tokens

NORM_EPS = 1e-6  # of the blocks; the final norm has torch's 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class CAbstractorConfig:
    """The sizes of a C-Abstractor. `num_queries` shows in no shape: a square number, or 0 for all tokens.
    `readout`: whether a second linear follows the first."""

    in_dim: int
    hidden_dim: int
    out_dim: int
    depth: int
    kernel: int
    d_inner: int
    d_squeeze: int
    num_queries: int
    readout: bool


class ChannelNorm(nn.Module):
    """A LayerNorm over the channels of an image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = LayerNorm(width, eps=NORM_EPS)

    def forward(self, x: Float[Tensor, "b d rows columns"]) -> Float[Tensor, "b d rows columns"]:
        return rearrange(self.norm(rearrange(x, "b d h w -> b h w d")), "b h w d -> b d h w")


class Excitation(nn.Module):
    """Weighs each channel by what all of them are on average."""

    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.fc = nn.Sequential(Linear(width, squeezed), nn.ReLU(), Linear(squeezed, width), nn.Sigmoid())

    def forward(self, x: Float[Tensor, "b i rows columns"]) -> Float[Tensor, "b i rows columns"]:
        return x * self.fc(reduce(x, "b i h w -> b i", "mean"))[:, :, None, None]


class Block(nn.Module):
    """A filter for each channel, then an MLP with channel attention, around a residual."""

    def __init__(self, config: CAbstractorConfig) -> None:
        super().__init__()
        d, i = config.hidden_dim, config.d_inner
        self.dwconv = Conv2d(d, d, config.kernel, padding=config.kernel // 2, groups=d)
        self.norm = ChannelNorm(d)
        self.pw1 = Conv2d(d, i, 1)
        self.se = Excitation(i, config.d_squeeze)
        self.pw2 = Conv2d(i, d, 1)

    def forward(self, x: Float[Tensor, "b d rows columns"]) -> Float[Tensor, "b d rows columns"]:
        return x + self.pw2(self.se(F.silu(self.pw1(self.norm(self.dwconv(x))))))


class CAbstractor(nn.Module):
    """The resampler.

    Raises:
        UsageError: the number of queries is not a square.
    """

    def __init__(self, config: CAbstractorConfig) -> None:
        super().__init__()
        self.edge = math.isqrt(config.num_queries)
        if self.edge**2 != config.num_queries:
            raise UsageError(
                f"a C-Abstractor has a square number of queries, not {config.num_queries}",
                hint="correct num_queries in the config",
            )
        d, out = config.hidden_dim, config.out_dim
        self.input_proj = Linear(config.in_dim, d)
        self.stage1 = Chain(*(Block(config) for _ in range(config.depth)))
        self.stage2 = Chain(*(Block(config) for _ in range(config.depth)))
        self.final_norm = LayerNorm(d)
        more = [nn.SiLU(), Linear(out, out)] if config.readout else []
        self.readout = nn.Sequential(Linear(d, out), *more)

    def forward(self, x: Float[Tensor, "b n in_dim"]) -> Float[Tensor, "b m out_dim"]:
        grid = self.stage1(to_grid(self.input_proj(x), *nearest_factors(x.shape[1])))
        if self.edge:
            grid = F.adaptive_avg_pool2d(grid, self.edge)
        return self.readout(self.final_norm(to_tokens(self.stage2(grid))))

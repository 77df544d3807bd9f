"""PanoVLM's plainest resamplers: pool the tokens, or leave them, then project.

    b  batch (images times views)    n  tokens

Most ways to pool leave no trace in the weights; which it was stands in the config only. `masked_drop` drops
tokens while it trains and none here.

Source: wooseungw/panollava@48559af `src/cora/model/resampler/{resamplers,spatial_pool,masked_drop}.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from einops import reduce
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.errors import UsageError
from dovetail.inputs.grids import tallest_over
from dovetail.models.layers import Conv2d, Linear
from dovetail.models.resamplers.grid import to_grid, to_tokens
from dovetail.models.resamplers.mlp import mlp

TYPES = ("identity", "avg", "spatial_pool", "masked_drop")
MODES: dict[str, Callable[[Tensor, int], Tensor]] = {"average": F.avg_pool2d, "max": F.max_pool2d}


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig:
    """`resampler_type` is one of TYPES, `pool_mode` one of MODES; `pool_size` tokens each way become one.

    The last two are read for a `spatial_pool` only. At depth 0 the projection is a single linear, and no
    list of one.
    """

    in_dim: int
    hidden_dim: int
    out_dim: int
    depth: int
    use_ln: bool
    resampler_type: str
    pool_mode: str
    pool_size: int


class Pool(nn.Module):
    """Every token, their mean, or the average or maximum over squares of the grid; then a projection.

    Raises:
        UsageError: no resampler or no way to pool is called so.
    """

    def __init__(self, config: PoolConfig) -> None:
        super().__init__()
        self.kind, self.mode, self.size = config.resampler_type, config.pool_mode, config.pool_size
        if self.kind not in TYPES:
            raise UsageError(f"no resampler of this kind is called `{self.kind}`", hint=", ".join(TYPES))
        if self.mode not in MODES:
            raise UsageError(f"no way to pool is called `{self.mode}`", hint=", ".join(MODES))
        self.proj = projection(
            in_dim=config.in_dim,
            hidden_dim=config.hidden_dim,
            out_dim=config.out_dim,
            depth=config.depth,
            use_ln=config.use_ln,
        )

    def pool(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b m d"]:
        """The tokens that are left."""
        match self.kind:
            case "avg":
                return reduce(x, "b n d -> b 1 d", "mean")
            case "spatial_pool":
                return to_tokens(MODES[self.mode](to_grid(x, *tallest_over(x.shape[1])), self.size))
            case _:
                return x

    def forward(self, x: Float[Tensor, "b n in_dim"]) -> Float[Tensor, "b m out_dim"]:
        return self.proj(self.pool(x))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvPoolConfig:
    """`kernel` tokens each way become one, by a learned filter."""

    in_dim: int
    hidden_dim: int
    out_dim: int
    depth: int
    use_ln: bool
    kernel: int


class ConvPool(nn.Module):
    """A strided convolution over the grid, then a projection."""

    def __init__(self, config: ConvPoolConfig) -> None:
        super().__init__()
        self.pool = Conv2d(config.in_dim, config.in_dim, config.kernel, stride=config.kernel)
        self.proj = projection(
            in_dim=config.in_dim,
            hidden_dim=config.hidden_dim,
            out_dim=config.out_dim,
            depth=config.depth,
            use_ln=config.use_ln,
        )

    def forward(self, x: Float[Tensor, "b n in_dim"]) -> Float[Tensor, "b m out_dim"]:
        return self.proj(to_tokens(self.pool(to_grid(x, *tallest_over(x.shape[1])))))


def projection(*, in_dim: int, hidden_dim: int, out_dim: int, depth: int, use_ln: bool) -> nn.Module:
    """An MLP, or at depth 0 a linear by itself."""
    if depth == 0:
        return Linear(in_dim, out_dim)
    return mlp(in_dim=in_dim, hidden_dim=hidden_dim, out_dim=out_dim, depth=depth, use_ln=use_ln)

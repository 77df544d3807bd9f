"""PanoVLM's MLP resampler: every token through the same MLP, then, if so configured, fewer tokens.

    b  batch (images times views)    n  tokens

Tokens are pooled after the MLP, along the sequence and not over the grid.

Source: wooseungw/panollava@48559af `src/cora/model/resampler/resamplers.py:MLPResampler`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.errors import UsageError
from dovetail.models.layers import LayerNorm, Linear

NORM_EPS = 1e-5
POOLS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "avg": F.adaptive_avg_pool1d,
    "max": F.adaptive_max_pool1d,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MlpConfig:
    """The sizes of an MLP; `hidden_dim` is read by none of depth 1. `pool_tokens` 0 keeps all tokens."""

    in_dim: int
    hidden_dim: int
    out_dim: int
    depth: int
    use_ln: bool
    pool_tokens: int
    pool_type: str


def mlp(*, in_dim: int, hidden_dim: int, out_dim: int, depth: int, use_ln: bool) -> nn.Sequential:
    """`depth` linears, a GELU between each two, after a norm if `use_ln`."""
    layers: list[nn.Module] = []
    width = in_dim
    for _ in range(depth - 1):
        layers.append(Linear(width, hidden_dim))
        layers += [LayerNorm(hidden_dim, eps=NORM_EPS)] if use_ln else []
        layers.append(nn.GELU())
        width = hidden_dim
    return nn.Sequential(*layers, Linear(width, out_dim))


class Mlp(nn.Module):
    """The resampler.

    Raises:
        UsageError: no way to pool is called so.
    """

    def __init__(self, config: MlpConfig) -> None:
        super().__init__()
        if config.pool_type not in POOLS:
            raise UsageError(
                f"tokens are pooled by avg or max, not by `{config.pool_type}`",
                hint="correct pool_type in the config",
            )
        self.pool_tokens = config.pool_tokens
        self.pool = POOLS[config.pool_type]
        self.mlp = mlp(
            in_dim=config.in_dim,
            hidden_dim=config.hidden_dim,
            out_dim=config.out_dim,
            depth=config.depth,
            use_ln=config.use_ln,
        )

    def forward(self, x: Float[Tensor, "b n in_dim"]) -> Float[Tensor, "b m out_dim"]:
        y = self.mlp(x)
        if not 0 < self.pool_tokens < y.shape[1]:
            return y
        pooled = self.pool(rearrange(y, "b n d -> b d n"), self.pool_tokens)
        return rearrange(pooled, "b d n -> b n d")

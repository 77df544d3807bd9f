"""PanoVLM's BiMamba resampler: Mamba mixers over the tokens in both directions, as many tokens out as in.

    b  batch (images times views)    n  tokens    d  hidden_dim    i  d_inner    s  d_state    r  dt_rank

Sources: arXiv:2312.00752 (Mamba, Fig. 3, Alg. 2); mamba_ssm `modules/mamba_simple.py` for the mixer;
wooseungw/panollava@48559af `src/cora/model/resampler/bimamba.py` for the rest. The mixer there needs CUDA
kernels; this one needs none.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.models.layers import LayerNorm, Linear
from dovetail.models.resamplers.selective_scan import selective_scan


@dataclass(frozen=True, slots=True, kw_only=True)
class BiMambaConfig:
    """The sizes of a BiMamba resampler. `norm_first` shows in no shape and changes the result."""

    in_dim: int
    hidden_dim: int
    out_dim: int
    depth: int
    d_inner: int
    d_state: int
    d_conv: int
    dt_rank: int
    norm_first: bool
    norm_eps: float


class CausalConv(nn.Conv1d):
    """A filter for each channel over its last `width` tokens."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(channels, channels, width, groups=channels)

    def reset_parameters(self) -> None:
        """Leaves the weight as it is."""

    def forward(self, x: Float[Tensor, "b n i"]) -> Float[Tensor, "b n i"]:
        padded = F.pad(rearrange(x, "b n i -> b i n"), (self.kernel_size[0] - 1, 0))
        return rearrange(super().forward(padded), "b i n -> b n i")


class Mixer(nn.Module):
    """A Mamba-1 mixer: a gated stream, filtered and run through states that depend on it."""

    def __init__(self, config: BiMambaConfig) -> None:
        super().__init__()
        d, i, s, r = config.hidden_dim, config.d_inner, config.d_state, config.dt_rank
        self.split = (r, s, s)
        self.in_proj = Linear(d, 2 * i, bias=False)
        self.conv1d = CausalConv(i, config.d_conv)
        self.x_proj = Linear(i, r + 2 * s, bias=False)
        self.dt_proj = Linear(r, i)
        self.A_log = nn.Parameter(torch.empty(i, s))
        self.D = nn.Parameter(torch.empty(i))
        self.out_proj = Linear(i, d, bias=False)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        u, gate = self.in_proj(x).chunk(2, dim=-1)
        u = F.silu(self.conv1d(u))
        rank, B, C = self.x_proj(u).split(self.split, dim=-1)
        delta = F.softplus(self.dt_proj(rank))
        y = selective_scan(u, delta, A=-torch.exp(self.A_log), B=B, C=C, D=self.D)
        return self.out_proj(y * F.silu(gate))


class Block(nn.Module):
    """The mean of a mixer forwards and one backwards, around a residual, the norm before or after."""

    def __init__(self, config: BiMambaConfig) -> None:
        super().__init__()
        self.norm_first = config.norm_first
        self.norm = LayerNorm(config.hidden_dim, eps=config.norm_eps)
        self.forward_block = Mixer(config)
        self.backward_block = Mixer(config)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        tokens = self.norm(x) if self.norm_first else x
        ahead = self.forward_block(tokens)
        back = self.backward_block(tokens.flip(1)).flip(1)
        y = x + 0.5 * (ahead + back)
        return y if self.norm_first else self.norm(y)


class BiMamba(nn.Module):
    """The resampler: a projection in, blocks, a norm, a projection out."""

    def __init__(self, config: BiMambaConfig) -> None:
        super().__init__()
        self.input_proj = Linear(config.in_dim, config.hidden_dim)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.final_norm = LayerNorm(config.hidden_dim, eps=config.norm_eps)
        self.output_proj = Linear(config.hidden_dim, config.out_dim)

    def forward(self, x: Float[Tensor, "b n in_dim"]) -> Float[Tensor, "b n out_dim"]:
        y = self.input_proj(x)
        for block in self.blocks:
            y = block(y)
        return self.output_proj(self.final_norm(y))

"""CORA's perceiver: learned latents that look at the tokens and at each other, layer after layer.

    b  batch (images times views)    n  tokens    l  latents    h  heads    d  in_dim

Sources: wooseungw/panollava@48559af `src/cora/model/resampler/perceiver.py`, after lucidrains'
flamingo-pytorch; arXiv:2204.14198 sec. 3.1.1.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from dovetail.models.attention import attend
from dovetail.models.layers import LayerNorm, Linear


@dataclass(frozen=True, slots=True, kw_only=True)
class PerceiverConfig:
    """The sizes of a perceiver. `ff`: whether layers have an MLP. `proj`: whether widths differ."""

    in_dim: int
    out_dim: int
    latents: int
    layers: int
    heads: int
    head_dim: int
    d_ff: int
    ff: bool
    proj: bool


class Attention(nn.Module):
    """Latents look at the tokens and the latents together, each normed by itself."""

    def __init__(self, config: PerceiverConfig) -> None:
        super().__init__()
        d, inner = config.in_dim, config.heads * config.head_dim
        self.heads = config.heads
        self.norm_media = LayerNorm(d)
        self.norm_latents = LayerNorm(d)
        self.to_q = Linear(d, inner, bias=False)
        self.to_kv = Linear(d, 2 * inner, bias=False)
        self.to_out = Linear(inner, d, bias=False)

    def forward(self, x: Float[Tensor, "b n d"], latents: Float[Tensor, "b l d"]) -> Float[Tensor, "b l d"]:
        latents = self.norm_latents(latents)
        seen = torch.cat([self.norm_media(x), latents], dim=1)
        q, k, v = (
            rearrange(one, "b n (h c) -> b h n c", h=self.heads)
            for one in (self.to_q(latents), *self.to_kv(seen).chunk(2, dim=-1))
        )
        return self.to_out(rearrange(attend(q, k, v), "b h l c -> b l (h c)"))


def feed_forward(config: PerceiverConfig) -> nn.Module:
    """The MLP of a layer. Without one the latents are added to themselves: CORA puts nothing in its place
    and keeps the residual."""
    if not config.ff:
        return nn.Identity()
    d, f = config.in_dim, config.d_ff
    return nn.Sequential(LayerNorm(d), Linear(d, f, bias=False), nn.GELU(), Linear(f, d, bias=False))


class Layer(nn.ModuleList):
    """Attention, then the MLP, each around a residual."""

    def __init__(self, config: PerceiverConfig) -> None:
        super().__init__([Attention(config), feed_forward(config)])

    def forward(self, x: Float[Tensor, "b n d"], latents: Float[Tensor, "b l d"]) -> Float[Tensor, "b l d"]:
        attention, mlp = self
        latents = attention(x, latents) + latents
        return mlp(latents) + latents


class Latents(nn.Module):
    """The latents and the layers they pass."""

    def __init__(self, config: PerceiverConfig) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.empty(config.latents, config.in_dim))
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = LayerNorm(config.in_dim)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b l d"]:
        latents = self.latents.expand(x.shape[0], -1, -1)
        for layer in self.layers:
            latents = layer(x, latents)
        return self.norm(latents)


class Perceiver(nn.Module):
    """The resampler: as many tokens out as there are latents."""

    def __init__(self, config: PerceiverConfig) -> None:
        super().__init__()
        self.perceiver = Latents(config)
        self.proj = Linear(config.in_dim, config.out_dim) if config.proj else nn.Identity()

    def forward(self, x: Float[Tensor, "b n in_dim"]) -> Float[Tensor, "b l out_dim"]:
        return self.proj(self.perceiver(x))

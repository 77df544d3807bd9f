"""Peephole: learned queries look at the patches of an image, and stand in its place before a Qwen2 decoder.

    b  batch    n  tokens    i  images    p  patches    m  queries    d  width    h  heads    c  head width

Parameters are called as the declaration calls them, below the role of their part.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.inputs.values import Values, fill
from dovetail.models.language import LanguageModel
from dovetail.models.layers import LayerNorm, Linear
from dovetail.models.masks import causal_blocks, positions_of
from dovetail.models.stream import Columns, Stream
from dovetail.models.text import build_decoder, build_head
from dovetail.models.towers.siglip import build_tower
from dovetail.models.vlm.placeholders import filled
from peephole.inputs import PeepholeInputs


@dataclass(frozen=True, slots=True, kw_only=True)
class ResamplerConfig:
    """Sizes of the resampler; `gate` is a feature that a file has or lacks."""

    queries: int
    layers: int
    heads: int
    d_in: int
    d_out: int
    norm_eps: float
    gate: bool


class Attention(nn.Module):
    """Queries look at patches."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x: Float[Tensor, "i m d"], seen: Float[Tensor, "i p d"]) -> Float[Tensor, "i m d"]:
        q, k, v = (
            rearrange(one, "i n (h c) -> i h n c", h=self.heads)
            for one in (self.q(x), self.k(seen), self.v(seen))
        )
        return self.o(rearrange(F.scaled_dot_product_attention(q, k, v), "i h m c -> i m (h c)"))


class Block(nn.Module):
    """One look, which a gate may close."""

    def __init__(self, config: ResamplerConfig) -> None:
        super().__init__()
        self.norm = LayerNorm(config.d_in, eps=config.norm_eps)
        self.attn = Attention(config.d_in, config.heads)
        self.gate = nn.Parameter(torch.empty(1)) if config.gate else None

    def forward(self, x: Float[Tensor, "i m d"], seen: Float[Tensor, "i p d"]) -> Float[Tensor, "i m d"]:
        new = self.attn(self.norm(x), seen)
        return x + (new if self.gate is None else self.gate.tanh() * new)


class Resampler(nn.Module):
    """As many tokens as there are queries, whatever the image."""

    def __init__(self, config: ResamplerConfig) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.empty(config.queries, config.d_in))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.proj = Linear(config.d_in, config.d_out)

    def forward(self, seen: Float[Tensor, "i p d"]) -> Float[Tensor, "i m e"]:
        x = self.queries.expand(len(seen), -1, -1)
        for block in self.blocks:
            x = block(x, seen)
        return self.proj(x)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeepholeConfig:
    """What no single part owns."""

    image_token: int


class Peephole(LanguageModel):
    """The tower, the resampler, the decoder and its head."""

    def __init__(self, values: Values) -> None:
        super().__init__()
        self.inputs = PeepholeInputs(values)
        self.config = fill(PeepholeConfig, values)
        self.vision = build_tower(values, "vision")
        self.resampler = Resampler(fill(ResamplerConfig, values, "resampler"))
        self.text = build_decoder(values, "text")
        self.head = build_head(values, "head", self.text)

    def embed(
        self,
        tokens: Int[Tensor, "b n"],
        valid: Bool[Tensor, "b n"],
        pixels: Float[Tensor, "i 3 height width"] | None = None,
    ) -> Stream:
        """The token embeddings, with what the queries saw in the places of images."""
        seen = None if pixels is None else self.resampler(self.vision(pixels, "normed")).flatten(0, 1)
        where = (tokens == self.config.image_token) & valid
        x = filled(self.text.embed, tokens, where, seen)
        return Stream(x, positions_of(valid), Columns(valid, causal_blocks(valid), where.long()))

"""What vision transformers share: attention of every patch to every patch, an MLP, a table of positions.

    b  batch    n  tokens (patches, row after row)    d  d_vision    h  heads    c  width of a head    f  d_ff

SigLIP, DINOv2 and CLIP are put together from these, each in its own file.

Sources: arXiv:2010.11929; transformers@5.23.0 `modeling_siglip.py`; timm@1.0.31 `vision_transformer.py`,
`layers/pos_embed.py`.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.errors import UsageError
from dovetail.models.attention import attend
from dovetail.models.blocks import Blocks
from dovetail.models.layers import LayerNorm, Linear, activation

# after the last norm; after the last block; after the block before it
Output = Literal["normed", "last", "penultimate"]


def mix(
    q: Float[Tensor, "b q d"], k: Float[Tensor, "b k d"], v: Float[Tensor, "b k d"], heads: int
) -> Float[Tensor, "b q d"]:
    """Multi-head attention of every query to every key."""
    split = (rearrange(x, "b n (h c) -> b h n c", h=heads) for x in (q, k, v))
    return rearrange(attend(*split), "b h n c -> b n (h c)")


class Attention(nn.Module):
    """Every token looks at every token."""

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (Linear(d, d) for _ in range(4))

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        return self.o(mix(self.q(x), self.k(x), self.v(x), self.heads))


class Mlp(nn.Module):
    """Two linears and an activation."""

    def __init__(self, d: int, d_ff: int, act: str) -> None:
        super().__init__()
        self.fc1 = Linear(d, d_ff)
        self.fc2 = Linear(d_ff, d)
        self.act = activation(act)

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """One layer: attention and MLP, each after its norm and around a residual."""

    def __init__(self, d: int, *, heads: int, d_ff: int, act: str, eps: float) -> None:
        super().__init__()
        self.norm1 = LayerNorm(d, eps=eps)
        self.attn = Attention(d, heads)
        self.norm2 = LayerNorm(d, eps=eps)
        self.mlp = Mlp(d, d_ff, act)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def through(
    blocks: Blocks, norm: nn.Module, x: Float[Tensor, "b n d"], output: Output | Sequence[int]
) -> Float[Tensor, "b n _"]:
    """What comes out of a stack of blocks and its norm, or what the blocks of some numbers put out, joined
    on channels. What is not needed is not run."""
    if not isinstance(output, str):
        return torch.cat(states(blocks, x, output), dim=-1)
    end = len(blocks) - (output == "penultimate")
    for block in list(blocks.values())[:end]:
        x = block(x)
    return norm(x) if output == "normed" else x


def states(blocks: Blocks, x: Float[Tensor, "b n d"], layers: Sequence[int]) -> list[Float[Tensor, "b n d"]]:
    """What some blocks put out, in the order asked for: 1 for the first, 0 for what goes in. What is not
    needed is not run."""
    kept = {0: x}
    for i, block in enumerate(list(blocks.values())[: max(layers)], 1):
        x = kept[i] = block(x)
    return [kept[layer] for layer in layers]


def unread_states(role: str, depth: int, layers: Sequence[int]) -> dict[str, str]:
    """The parameters of a tower of this depth that play no part in the states of some layers, and why."""
    found = unread(role, depth, "last")
    for layer in range(max(layers), depth):
        found[f"{role}.blocks.{layer}.*"] = "patches are read before this block"
    return found


def unread(role: str, layers: int, output: Output) -> dict[str, str]:
    """The parameters of a tower that play no part in an output, as patterns, and why."""
    found = {f"{role}.pool.*": "the pooling head makes one vector of an image, and patches are read here"}
    if output != "normed":
        found[f"{role}.norm.*"] = "patches are read before the last norm"
    if output == "penultimate":
        found[f"{role}.blocks.{layers - 1}.*"] = "patches are read before the last block"
    return found


class Table(nn.Module):
    """A vector for each position, `weight` being all there is of it."""

    def __init__(self, positions: int, d: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(positions, d))

    def extra_repr(self) -> str:
        return ", ".join(map(str, self.weight.shape))


def edge_of(positions: int) -> int:
    """The edge of a square grid.

    Raises:
        UsageError: the positions are no square.
    """
    edge = math.isqrt(positions)
    if edge * edge != positions:
        raise UsageError(
            f"{positions} positions are no square grid of patches",
            hint="`dovetail inspect` shows the positions; only square grids run",
        )
    return edge


def resampled(
    table: Float[Tensor, "p d"], rows: int, columns: int, *, antialias: bool
) -> Float[Tensor, "n d"]:
    """The positions of a grid of another size than the square one that the table was made for.

    Bicubic, pixel centres at half integers. transformers does not antialias, timm does: they differ only
    where the grid shrinks.
    """
    edge = edge_of(table.shape[0])
    if (rows, columns) == (edge, edge):
        return table
    square = rearrange(table, "(r c) d -> 1 d r c", r=edge)
    wide = square if square.dtype == torch.float64 else square.float()
    grid = F.interpolate(wide, (rows, columns), mode="bicubic", align_corners=False, antialias=antialias)
    return rearrange(grid, "1 d r c -> (r c) d").to(table.dtype)

"""What the vision towers of the Qwen-VL families share: images of any size as one row of patches.

    p  patches of all images    d  d_vision    h  heads    c  head width    v  values of a patch
    merged  features: groups of `area` neighbouring patches

Patches come flattened and in the order of the merger (`dovetail.inputs.patches`): one window of
`merge` x `merge` neighbours after the other. `grids` counts the frames, rows and columns of every image.
Half of a head's channels turn with the patch's row, half with its column. A patch sees the patches of its
own run (a frame, or a window of one) and no others.

Sources: transformers@5.23.0 `modeling_{qwen2_vl,qwen2_5_vl,qwen3_vl}.py`; arXiv:2409.12191 sec. 2.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isqrt

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.models.attention import attend
from dovetail.models.layers import LayerNorm, Linear
from dovetail.models.rotary import Rotation, frequencies, rotate, sectioned_rotation
from dovetail.models.towers.vit import Mlp

THETA = 10_000.0
MERGER_EPS = 1e-6


class PatchEmbed(nn.Module):
    """A linear map of a flattened patch; stored as a 3-D convolution over (frame, row, column)."""

    def __init__(self, d: int, *, channels: int, frames: int, patch: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d, channels, frames, patch, patch))
        self.bias = nn.Parameter(torch.empty(d)) if bias else None

    def extra_repr(self) -> str:
        return ", ".join(map(str, self.weight.shape))

    def forward(self, patches: Float[Tensor, "p v"]) -> Float[Tensor, "p d"]:
        return F.linear(patches.to(self.weight.dtype), self.weight.flatten(1), self.bias)


class Attention(nn.Module):
    """Attention among the patches of each run."""

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(d, 3 * d)
        self.o = Linear(d, d)

    def forward(self, x: Float[Tensor, "p d"], by: Rotation, lengths: Sequence[int]) -> Float[Tensor, "p d"]:
        q, k, v = rearrange(self.qkv(x), "p (three h c) -> three 1 h p c", three=3, h=self.heads)
        q, k = (rotate(one.float(), by).to(x.dtype) for one in (q, k))
        return self.o(rearrange(_attend_in_runs(q, k, v, lengths), "1 h p c -> p (h c)"))


def _attend_in_runs(
    q: Float[Tensor, "1 h p c"],
    k: Float[Tensor, "1 h p c"],
    v: Float[Tensor, "1 h p c"],
    lengths: Sequence[int],
) -> Float[Tensor, "1 h p c"]:
    """Attention within runs of these lengths; runs of one length that follow each other are one batch."""
    spans = [(length, length * len(list(same))) for length, same in groupby(lengths)]
    sizes = [span for _, span in spans]
    pieces = zip(*(torch.split(one, sizes, dim=2) for one in (q, k, v)), strict=True)
    out = []
    for (length, _), piece in zip(spans, pieces, strict=True):
        runs = (rearrange(one, "1 h (runs n) c -> runs h n c", n=length) for one in piece)
        out.append(rearrange(attend(*runs), "runs h n c -> 1 h (runs n) c"))
    return torch.cat(out, dim=2)


class Block(nn.Module):
    """One layer: attention and MLP, each after its norm and around a residual."""

    def __init__(self, d: int, *, heads: int, d_ff: int, act: str, eps: float) -> None:
        super().__init__()
        self.norm1 = LayerNorm(d, eps=eps)
        self.attn = Attention(d, heads)
        self.norm2 = LayerNorm(d, eps=eps)
        self.mlp = Mlp(d, d_ff, act)

    def forward(self, x: Float[Tensor, "p d"], by: Rotation, lengths: Sequence[int]) -> Float[Tensor, "p d"]:
        x = x + self.attn(self.norm1(x), by, lengths)
        return x + self.mlp(self.norm2(x))


def frame_lengths(grids: Int[Tensor, "images 3"]) -> list[int]:
    """How many patches each frame of each image has."""
    return [rows * columns for frames, rows, columns in grids.tolist() for _ in range(frames)]


def grid_rotation(grids: Int[Tensor, "images 3"], *, width: int, merge: int) -> Rotation:
    """The rotation of every patch in heads of this width: half the angles by its row, half by its column."""
    places = torch.cat([_places(grid, merge) for grid in grids.tolist()], dim=1).to(grids.device)
    axis = frequencies(width // 2, THETA, device=grids.device)
    return sectioned_rotation(places[:, None], axis.repeat(2), [len(axis)] * 2, torch.float32)


def _places(grid: Sequence[int], merge: int) -> Int[Tensor, "2 p"]:
    """The row and column of every patch of an image."""
    frames, rows, columns = grid
    places = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij"))
    return in_merge_order(places, merge).repeat(1, frames)


def in_merge_order(image: Tensor, merge: int) -> Tensor:
    """What each place of an image has, in the order of the patches: (kinds, rows, columns) to (kinds, p)."""
    return rearrange(image, "kinds (h i) (w j) -> kinds (h w i j)", i=merge, j=merge)


@dataclass(frozen=True, slots=True, kw_only=True)
class MergerConfig:
    """The sizes of a merger; it joins `merge_area` patches."""

    d_in: int
    d_out: int
    merge_area: int

    @property
    def edge(self) -> int:
        """How many patches it joins each way."""
        return isqrt(self.merge_area)


class Merger(nn.Module):
    """Neighbouring patches side by side, through an MLP of their common width, to the decoder's width.

    The paper names only the MLP; the published models have a norm before it: of every patch, or where
    `norms_joined` of the patches side by side.
    """

    def __init__(self, config: MergerConfig, norm: nn.Module, *, norms_joined: bool = False) -> None:
        super().__init__()
        self.area = config.merge_area
        self.norms_joined = norms_joined
        width = config.merge_area * config.d_in
        self.norm = norm
        self.fc1 = Linear(width, width)
        self.fc2 = Linear(width, config.d_out)

    def forward(self, x: Float[Tensor, "p d"]) -> Float[Tensor, "merged out"]:
        joined = self.norm(self.joined(x)) if self.norms_joined else self.joined(self.norm(x))
        return self.fc2(F.gelu(self.fc1(joined)))

    def joined(self, x: Float[Tensor, "p d"]) -> Float[Tensor, "merged wide"]:
        """Neighbouring patches side by side."""
        return rearrange(x, "(merged area) d -> merged (area d)", area=self.area)

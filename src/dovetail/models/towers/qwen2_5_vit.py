"""Qwen2.5-VL's vision tower: most of its layers look through windows.

    p  patches of all images    d  d_vision    f  d_ff    v  values of a patch
    merged  features: groups of `area` neighbouring patches

An image is cut into windows of `window_size` pixels each way, from its top left corner; those at its right
and bottom edges are smaller. Inside the tower the patches of a window follow each other, so that a window
is one run of attention; a window holds whole groups of patches that the merger joins, in their order:

    features of an image     in the tower, windows of 2 x 2 features
    0 1 2 3 4                0 1 5 6 | 2 3 7 8 | 4 9 | 10 11 | 12 13 | 14
    5 6 7 8 9
    10 11 12 13 14

In the layers `full_attention_layers` a patch sees its whole frame. Norms are RMS norms, the MLP is gated
and has biases. Rotary positions are those of the whole image.

Sources: transformers@5.23.0 `modeling_qwen2_5_vl.py`, `vision_utils.py`; arXiv:2502.13923 sec. 2.1.1.
transformers gives `last_hidden_state` in the order of the windows; here it is back in that of the patches.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from dovetail.errors import UsageError
from dovetail.models.blocks import Blocks
from dovetail.models.layers import Linear, RMSNorm, activation
from dovetail.models.rotary import Rotation
from dovetail.models.towers.grids import (
    MERGER_EPS,
    Attention,
    Merger,
    MergerConfig,
    PatchEmbed,
    frame_lengths,
    grid_rotation,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Qwen25VitConfig:
    """The sizes and settings of the tower, by the names of its declaration. `window_size` is in pixels."""

    layers: int
    d_vision: int
    heads: int
    d_ff: int
    patch: int
    frames: int
    channels: int
    norm_eps: float
    activation: str
    window_size: int
    full_attention_layers: tuple[int, ...]


class GatedMlp(nn.Module):
    """`down(act(gate x) * up x)`, each with a bias."""

    def __init__(self, d: int, d_ff: int, act: str) -> None:
        super().__init__()
        self.gate, self.up = Linear(d, d_ff), Linear(d, d_ff)
        self.down = Linear(d_ff, d)
        self.act = activation(act)

    def forward(self, x: Float[Tensor, "p d"]) -> Float[Tensor, "p d"]:
        return self.down(self.act(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """One layer: attention and MLP, each after its norm and around a residual."""

    def __init__(self, config: Qwen25VitConfig) -> None:
        super().__init__()
        d = config.d_vision
        self.norm1 = RMSNorm(d, config.norm_eps)
        self.attn = Attention(d, config.heads)
        self.norm2 = RMSNorm(d, config.norm_eps)
        self.mlp = GatedMlp(d, config.d_ff, config.activation)

    def forward(self, x: Float[Tensor, "p d"], by: Rotation, lengths: Sequence[int]) -> Float[Tensor, "p d"]:
        x = x + self.attn(self.norm1(x), by, lengths)
        return x + self.mlp(self.norm2(x))


class Qwen25Vit(nn.Module):
    """The tower. It puts out the last block as it is: the norm belongs to the merger."""

    def __init__(self, config: Qwen25VitConfig, merge: int) -> None:
        super().__init__()
        self.config = config
        self.merge = merge
        self.window = config.window_size // (merge * config.patch)
        if self.window < 1:
            raise UsageError(
                f"a window of {config.window_size} pixels does not hold {merge} x {merge} patches",
                expected=f"at least {merge * config.patch}",
                hint="give --set vision.window_size=PIXELS",
            )
        self.patch_embed = PatchEmbed(
            config.d_vision, channels=config.channels, frames=config.frames, patch=config.patch
        )
        self.blocks = Blocks({str(i): Block(config) for i in range(config.layers)})

    def forward(self, patches: Float[Tensor, "p v"], grids: Int[Tensor, "images 3"]) -> Float[Tensor, "p d"]:
        """The features of the patches of all images; `grids` counts each one's frames, rows, columns."""
        order, windows = self.windows(grids)
        frames = frame_lengths(grids)
        by = grid_rotation(grids, width=self.config.d_vision // self.config.heads, merge=self.merge)
        by = Rotation(by.cos[:, order], by.sin[:, order])
        x = self.patch_embed(patches)[order]
        for i, block in enumerate(self.blocks.values()):
            x = block(x, by, frames if i in self.config.full_attention_layers else windows)
        return x[order.argsort()]

    def windows(self, grids: Int[Tensor, "images 3"]) -> tuple[Int[Tensor, " p"], list[int]]:
        """The patches in the order of the windows, and how many each window has."""
        area = self.merge**2
        orders, lengths = [], []
        start = 0
        for frames, rows, columns in grids.tolist():
            window = _window_of_features(frames, rows // self.merge, columns // self.merge, self.window)
            orders.append(start + window.argsort(stable=True))
            lengths += (window.bincount() * area).tolist()
            start += len(window)
        features = torch.cat(orders)[:, None] * area + torch.arange(area)
        return rearrange(features, "merged area -> (merged area)").to(grids.device), lengths


def _window_of_features(frames: int, rows: int, columns: int, edge: int) -> Int[Tensor, " merged"]:
    """The number of the window that each feature of an image lies in, counted over all frames.

    >>> _window_of_features(1, 3, 5, 2).view(3, 5).tolist()
    [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]]
    """
    across, down = -(-columns // edge), -(-rows // edge)
    frame, row, column = torch.meshgrid(
        torch.arange(frames), torch.arange(rows), torch.arange(columns), indexing="ij"
    )
    return ((frame * down + row // edge) * across + column // edge).flatten()


def qwen25_merger(config: MergerConfig) -> Merger:
    """The merger, with an RMS norm of every patch."""
    return Merger(config, RMSNorm(config.d_in, MERGER_EPS))

"""Qwen2-VL's vision tower, for images of any size, and the merger that joins 2 x 2 of its patches.

    p  patches of all images    d  d_vision    v  values of a patch

The tower has no learned positions (`grids.py` says how patches are ordered and turned). A patch sees the
patches of its own frame and no others.

Sources: transformers@5.23.0 `modeling_qwen2_vl.py`; arXiv:2409.12191 sec. 2.1.
"""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor, nn

from dovetail.models.blocks import Blocks
from dovetail.models.layers import LayerNorm
from dovetail.models.towers.grids import (
    MERGER_EPS,
    Block,
    Merger,
    MergerConfig,
    PatchEmbed,
    frame_lengths,
    grid_rotation,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Qwen2VitConfig:
    """The sizes and settings of the tower, by the names of its declaration."""

    layers: int
    d_vision: int
    heads: int
    d_ff: int
    patch: int
    frames: int
    channels: int
    norm_eps: float
    activation: str


class Qwen2Vit(nn.Module):
    """The tower. It puts out the last block as it is: the norm belongs to the merger."""

    def __init__(self, config: Qwen2VitConfig, merge: int) -> None:
        super().__init__()
        self.config = config
        self.merge = merge
        d, sizes = config.d_vision, {"heads": config.heads, "d_ff": config.d_ff}
        self.patch_embed = PatchEmbed(d, channels=config.channels, frames=config.frames, patch=config.patch)
        self.blocks = Blocks(
            {
                str(i): Block(d, **sizes, act=config.activation, eps=config.norm_eps)
                for i in range(config.layers)
            }
        )

    def forward(self, patches: Float[Tensor, "p v"], grids: Int[Tensor, "images 3"]) -> Float[Tensor, "p d"]:
        """The features of the patches of all images; `grids` counts each one's frames, rows, columns."""
        lengths = frame_lengths(grids)
        by = grid_rotation(grids, width=self.config.d_vision // self.config.heads, merge=self.merge)
        x = self.patch_embed(patches)
        for block in self.blocks.values():
            x = block(x, by, lengths)
        return x


def qwen2_merger(config: MergerConfig) -> Merger:
    """The merger, with a LayerNorm of every patch."""
    return Merger(config, LayerNorm(config.d_in, eps=MERGER_EPS))

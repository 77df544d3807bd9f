"""SigLIP2's NaFlex tower: SigLIP's, for images of any shape.

    p  patches of all images    d  d_vision    i  images

Patches come flattened (`dovetail.inputs.naflex`), so they meet a matrix and not a convolution, and positions
are interpolated for every image: bilinearly, antialiased. Images go through the tower one by one, where
transformers pads them to one length and masks what it added.

Sources: arXiv:2502.14786 sec. 2.4; transformers@5.23.0 `modeling_siglip2.py`.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.errors import UsageError
from dovetail.inputs.towers import NaflexInputs
from dovetail.inputs.values import Values, fill
from dovetail.models.blocks import Blocks
from dovetail.models.layers import LayerNorm, Linear
from dovetail.models.towers.siglip_pool import Pool
from dovetail.models.towers.siglip_text import WithTexts
from dovetail.models.towers.vit import Block, Output, Table, edge_of, through


@dataclass(frozen=True, slots=True, kw_only=True)
class NaflexConfig:
    """The sizes and settings of a tower; `pool`: whether there is a pooling head."""

    d_vision: int
    layers: int
    heads: int
    d_ff: int
    patch: int
    positions: int
    channels: int
    norm_eps: float
    activation: str
    max_num_patches: int
    pool: bool


class NaflexTower(nn.Module):
    """Flattened patches with positions, blocks, a norm, and perhaps a pooling head."""

    def __init__(self, config: NaflexConfig) -> None:
        super().__init__()
        self.config = config
        d, eps, act = config.d_vision, config.norm_eps, config.activation
        self.patch_embed = Linear(config.channels * config.patch**2, d)
        self.pos_embed = Table(config.positions, d)
        self.blocks = Blocks(
            {
                str(i): Block(d, heads=config.heads, d_ff=config.d_ff, act=act, eps=eps)
                for i in range(config.layers)
            }
        )
        self.norm = LayerNorm(d, eps=eps)
        self.pool = Pool(d, heads=config.heads, d_ff=config.d_ff, act=act, eps=eps) if config.pool else None

    def embed(self, patches: Float[Tensor, "p values"], rows: int, columns: int) -> Float[Tensor, "p d"]:
        """The patches of one image with their positions."""
        table = self.pos_embed.weight
        square = rearrange(table, "(r c) d -> 1 d r c", r=edge_of(len(table)))
        wide = square if square.dtype == torch.float64 else square.float()
        grid = F.interpolate(wide, (rows, columns), mode="bilinear", align_corners=False, antialias=True)
        return self.patch_embed(patches.to(self.patch_embed.weight.dtype)) + rearrange(
            grid, "1 d r c -> (r c) d"
        ).to(table.dtype)

    def forward(
        self, patches: Float[Tensor, "p values"], grids: Int[Tensor, "i 2"], output: Output = "normed"
    ) -> Float[Tensor, "p d"]:
        sizes = [tuple(grid) for grid in grids.tolist()]
        images = patches.split([rows * columns for rows, columns in sizes])  # type: ignore[no-untyped-call]
        seen = [
            through(self.blocks, self.norm, self.embed(image, rows, columns)[None], output)[0]
            for image, (rows, columns) in zip(images, sizes, strict=True)
        ]
        return torch.cat(seen)


class SiglipNaflex(WithTexts):
    """A NaFlex tower by itself, or with the text tower that it was trained with."""

    def __init__(self, values: Values) -> None:
        super().__init__(values)
        self.inputs = NaflexInputs(values)
        self.vision = NaflexTower(fill(NaflexConfig, values, "vision"))

    def forward(
        self, patches: Float[Tensor, "p values"], grids: Int[Tensor, "i 2"], output: Output = "normed"
    ) -> Float[Tensor, "p d"]:
        return self.vision(patches, grids, output)

    def pooled(self, patches: Float[Tensor, "p values"], grids: Int[Tensor, "i 2"]) -> Float[Tensor, "i d"]:
        """One vector for each image.

        Raises:
            UsageError: the tower has no pooling head.
        """
        if self.vision.pool is None:
            raise UsageError("this tower has no pooling head", hint="take the patches instead")
        counts = grids.prod(dim=1).tolist()
        images = self.vision(patches, grids).split(counts)
        return torch.cat([self.vision.pool(image[None]) for image in images])

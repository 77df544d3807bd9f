"""SigLIP's vision tower, as transformers runs it and as timm does.

    b  batch    n  patches, row after row    d  d_vision

The same weights are run in two ways that differ in the sixth digit or more, so each is named:

                              transformers                        timm (Prismatic, OpenVLA)
    `activation`              gelu_pytorch_tanh                   gelu, exact
    `antialias`               no                                  yes; only where positions are interpolated
    output                    normed (PaliGemma, pi0)             penultimate (Prismatic)
                              last (LLaVA-OneVision: of a tower without its 27th block)

Patches that an edge cuts are left out: at patch 14 a tower sees the same of 378 and of 384 pixels.

Sources: arXiv:2303.15343; transformers@5.23.0 `modeling_siglip.py`; timm@1.0.31 `vision_transformer.py`,
`layers/{attention_pool,pos_embed}.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from dovetail.errors import UsageError
from dovetail.inputs.towers import SquareInputs
from dovetail.inputs.values import Values, fill
from dovetail.models.blocks import Blocks
from dovetail.models.layers import Conv2d, LayerNorm
from dovetail.models.towers.siglip_naflex import SiglipNaflex
from dovetail.models.towers.siglip_pool import Pool
from dovetail.models.towers.siglip_text import WithTexts
from dovetail.models.towers.vit import Block, Output, Table, edge_of, resampled, through


@dataclass(frozen=True, slots=True, kw_only=True)
class SiglipConfig:
    """The sizes and settings of a tower. `image_size` 0 stands for as many pixels as the patches cover;
    `pool`: whether there is a pooling head."""

    d_vision: int
    layers: int
    heads: int
    d_ff: int
    patch: int
    positions: int
    channels: int
    norm_eps: float
    activation: str
    antialias: bool
    image_size: int
    pool: bool


class SiglipTower(nn.Module):
    """Patches with positions, blocks, a norm, and perhaps a pooling head."""

    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        self.config = config
        d, patch, eps, act = config.d_vision, config.patch, config.norm_eps, config.activation
        self.patch_embed = Conv2d(config.channels, d, patch, stride=patch)
        self.pos_embed = Table(config.positions, d)
        self.blocks = Blocks(
            {
                str(i): Block(d, heads=config.heads, d_ff=config.d_ff, act=act, eps=eps)
                for i in range(config.layers)
            }
        )
        self.norm = LayerNorm(d, eps=eps)
        self.pool = Pool(d, heads=config.heads, d_ff=config.d_ff, act=act, eps=eps) if config.pool else None

    @property
    def image_size(self) -> int:
        """The edge in pixels that square images are resized to."""
        return self.config.image_size or edge_of(self.config.positions) * self.config.patch

    def embed(self, pixels: Float[Tensor, "b channels height width"]) -> Float[Tensor, "b n d"]:
        """The patches with their positions, which are interpolated for any grid but the table's own."""
        grid = self.patch_embed(pixels.to(self.patch_embed.weight.dtype))  # b d rows columns
        rows, columns = grid.shape[2:]
        table = resampled(self.pos_embed.weight, rows, columns, antialias=self.config.antialias)
        patches = grid.flatten(2).transpose(1, 2) + table
        return patches.to(self.norm.weight.dtype)  # pi0 keeps what made them in float32

    def forward(
        self, pixels: Float[Tensor, "b channels height width"], output: Output | Sequence[int] = "normed"
    ) -> Float[Tensor, "b n _"]:
        return through(self.blocks, self.norm, self.embed(pixels), output)


def build_tower(values: Values, role: str, **more: Any) -> SiglipTower:
    """The tower that fills a role; `more` are values known otherwise.

    Raises:
        UsageError: the role is not there, a value that it needs is not known, or it is a NaFlex tower.
    """
    if values.kind(role) != "siglip":
        raise UsageError(
            f"{role} is a {values.kind(role)}; dovetail runs siglip towers with square patches",
            hint="other kinds are converted and checked, not run",
        )
    return SiglipTower(fill(SiglipConfig, values, role, **more))


class SiglipModel(WithTexts):
    """A vision tower by itself, or with the text tower that it was trained with."""

    def __init__(self, values: Values) -> None:
        super().__init__(values)
        self.inputs = SquareInputs(values)
        self.vision = build_tower(values, "vision")

    def forward(
        self, pixels: Float[Tensor, "b channels height width"], output: Output = "normed"
    ) -> Float[Tensor, "b n d"]:
        return self.vision(pixels, output)

    def pooled(self, pixels: Float[Tensor, "b channels height width"]) -> Float[Tensor, "b d"]:
        """One vector for each image.

        Raises:
            UsageError: the tower has no pooling head.
        """
        if self.vision.pool is None:
            raise UsageError("this tower has no pooling head", hint="take the patches instead")
        return self.vision.pool(self.vision(pixels))


def build_siglip(values: Values) -> nn.Module:
    """The model of a checkpoint: for square images, or NaFlex.

    Raises:
        UsageError: a value that it needs is not known.
    """
    return SiglipNaflex(values) if values.kind("vision") == "siglip_naflex" else SiglipModel(values)

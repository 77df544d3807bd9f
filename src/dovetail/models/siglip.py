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

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from dovetail.data.images import siglip_pixels
from dovetail.errors import UsageError
from dovetail.models.layers import Conv2d, LayerNorm, Linear
from dovetail.models.siglip_text import Contrast, TextConfig, TextTower
from dovetail.models.values import Values, fill
from dovetail.models.vit import Block, Mlp, Output, Table, edge_of, mix, resampled, through


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


class Pool(nn.Module):
    """One vector for an image: a learned query looks at all patches, then an MLP around a residual."""

    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        d = config.d_vision
        self.heads = config.heads
        self.latent = nn.Parameter(torch.empty(1, 1, d))
        self.q, self.k, self.v, self.o = (Linear(d, d) for _ in range(4))
        self.norm = LayerNorm(d, eps=config.norm_eps)
        self.mlp = Mlp(d, config.d_ff, config.activation)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b d"]:
        query = self.q(self.latent).expand(x.shape[0], -1, -1)
        found = self.o(mix(query, self.k(x), self.v(x), self.heads))
        return (found + self.mlp(self.norm(found)))[:, 0]


class SiglipTower(nn.Module):
    """Patches with positions, blocks, a norm, and perhaps a pooling head."""

    def __init__(self, config: SiglipConfig) -> None:
        super().__init__()
        self.config = config
        d, patch = config.d_vision, config.patch
        self.patch_embed = Conv2d(config.channels, d, patch, stride=patch)
        self.pos_embed = Table(config.positions, d)
        self.blocks = nn.ModuleDict(
            {
                str(i): Block(
                    d, heads=config.heads, d_ff=config.d_ff, act=config.activation, eps=config.norm_eps
                )
                for i in range(config.layers)
            }
        )
        self.norm = LayerNorm(d, eps=config.norm_eps)
        self.pool = Pool(config) if config.pool else None

    @property
    def image_size(self) -> int:
        """The edge in pixels that square images are resized to."""
        return self.config.image_size or edge_of(self.config.positions) * self.config.patch

    def embed(self, pixels: Float[Tensor, "b channels height width"]) -> Float[Tensor, "b n d"]:
        """The patches with their positions, which are interpolated for any grid but the table's own."""
        grid = self.patch_embed(pixels)  # b d rows columns
        rows, columns = grid.shape[2:]
        table = resampled(self.pos_embed.weight, rows, columns, antialias=self.config.antialias)
        patches = grid.flatten(2).transpose(1, 2) + table
        return patches.to(self.norm.weight.dtype)  # pi0 keeps what made them in float32

    def forward(
        self, pixels: Float[Tensor, "b channels height width"], output: Output = "normed"
    ) -> Float[Tensor, "b n d"]:
        return through(self.blocks, self.norm, self.embed(pixels), output)


def build_tower(values: Values, role: str, **more: Any) -> SiglipTower:
    """The tower that fills a role; `more` are values known otherwise.

    Raises:
        UsageError: the role is not there, a value that it needs is not known, or it is a NaFlex tower.
    """
    if values.kind(role) != "siglip":
        raise UsageError(f"{role} is a {values.kind(role)}; dovetail runs siglip towers with square patches")
    return SiglipTower(fill(SiglipConfig, values, role, **more))


class SiglipModel(nn.Module):
    """A vision tower by itself, or with the text tower that it was trained with."""

    def __init__(self, values: Values) -> None:
        super().__init__()
        self.vision = build_tower(values, "vision")
        self.text = TextTower(fill(TextConfig, values, "text")) if values.has("text") else None
        self.contrast = Contrast() if values.has("contrast") else None

    def prepare(self, images: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """Decoded images (uint8, height x width x 3), squeezed to the tower's square, in [-1, 1].

        Raises:
            UsageError: an image is not decoded.
        """
        size = self.vision.image_size
        weight = self.vision.patch_embed.weight
        pixels = np.stack([siglip_pixels(image, (size, size)) for image in images])
        return {"pixels": torch.from_numpy(pixels).to(weight.device, weight.dtype)}

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
            raise UsageError("this tower has no pooling head")
        return self.vision.pool(self.vision(pixels))

    def texts(self, rows: Sequence[Sequence[int]]) -> Float[Tensor, "b e"]:
        """One vector for each text, from its tokens.

        Raises:
            UsageError: there is no text tower or no text, texts have different lengths, or one is too long.
        """
        if self.text is None:
            raise UsageError("this is a vision tower alone, and reads no texts")
        longest, lengths = self.text.config.positions, {len(row) for row in rows}
        if len(lengths) != 1 or not 0 < min(lengths) <= longest:
            raise UsageError(
                "texts are padded to one length by their tokenizer",
                expected=f"1 to {longest} tokens, for all the same",
                found=f"{sorted(lengths) or 'no text'}",
            )
        return self.text(torch.tensor(rows, device=self.text.embed.weight.device))

    def scores(self, images: Float[Tensor, "i e"], texts: Float[Tensor, "b e"]) -> Float[Tensor, "i b"]:
        """The score of every pair of an image (`pooled`) and a text (`texts`).

        Raises:
            UsageError: the checkpoint has no scale and bias.
        """
        if self.contrast is None:
            raise UsageError("this checkpoint has no scale and bias to compare images and texts with")
        return self.contrast(images, texts)

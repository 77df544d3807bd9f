"""DINOv2's vision tower, as timm runs it and as transformers does.

    b  batch    n  patches, row after row    m  tokens: class, registers, patches    d  d_vision

Unlike SigLIP it has a class token, perhaps registers, and a scale for each channel after attention and
MLP. Features are those of the patches alone. Of the tokens before the patches, all have a position, or the
class token alone (transformers), or none (timm's `no_embed_class`): the table says how many.

Sources: arXiv:2304.07193, arXiv:2309.16588 (registers); timm@1.0.31 `vision_transformer.py`
(`vit_large_patch14_reg4_dinov2`), `layers/pos_embed.py`; transformers@5.23.0
`modeling_{dinov2,dinov2_with_registers}.py`.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dovetail.errors import UsageError
from dovetail.inputs.towers import dinov2_inputs
from dovetail.inputs.values import Values, fill
from dovetail.models.blocks import Blocks
from dovetail.models.layers import Conv2d, LayerNorm, Linear, activation
from dovetail.models.towers.tower import TowerModel
from dovetail.models.towers.vit import Attention, Mlp, Output, Table, resampled, through


@dataclass(frozen=True, slots=True, kw_only=True)
class Dinov2Config:
    """The sizes and settings of a tower."""

    d_vision: int
    layers: int
    heads: int
    d_ff: int
    patch: int
    positions: int
    channels: int
    registers: int
    norm_eps: float
    activation: str
    antialias: bool
    image_size: int
    is_gated: bool


class GatedMlp(nn.Module):
    """The MLP of the giant: `down(act(gate(x)) * up(x))`, with biases."""

    def __init__(self, d: int, d_ff: int, act: str) -> None:
        super().__init__()
        self.gate = Linear(d, d_ff)
        self.up = Linear(d, d_ff)
        self.down = Linear(d_ff, d)
        self.act = activation(act)

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        return self.down(self.act(self.gate(x)) * self.up(x))


class ScaledBlock(nn.Module):
    """One layer: attention and MLP, each after its norm, scaled, and around a residual."""

    def __init__(self, config: Dinov2Config) -> None:
        super().__init__()
        d = config.d_vision
        self.norm1 = LayerNorm(d, eps=config.norm_eps)
        self.attn = Attention(d, config.heads)
        self.scale1 = nn.Parameter(torch.empty(d))
        self.norm2 = LayerNorm(d, eps=config.norm_eps)
        self.mlp = (GatedMlp if config.is_gated else Mlp)(d, config.d_ff, config.activation)
        self.scale2 = nn.Parameter(torch.empty(d))

    def forward(self, x: Float[Tensor, "b m d"]) -> Float[Tensor, "b m d"]:
        x = x + self.scale1 * self.attn(self.norm1(x))
        return x + self.scale2 * self.mlp(self.norm2(x))


class Dinov2Tower(nn.Module):
    """A class token, registers and patches with positions, blocks, a norm."""

    def __init__(self, config: Dinov2Config) -> None:
        super().__init__()
        self.config = config
        d, patch = config.d_vision, config.patch
        self.patch_embed = Conv2d(config.channels, d, patch, stride=patch)
        self.cls_token = nn.Parameter(torch.empty(1, 1, d))
        self.reg_token = nn.Parameter(torch.empty(1, config.registers, d)) if config.registers else None
        self.pos_embed = Table(config.positions, d)
        self.blocks = Blocks({str(i): ScaledBlock(config) for i in range(config.layers)})
        self.norm = LayerNorm(d, eps=config.norm_eps)

    @property
    def image_size(self) -> int:
        """The edge in pixels that square images are resized to."""
        return self.config.image_size or math.isqrt(self.config.positions) * self.config.patch

    @property
    def placed(self) -> int:
        """How many of the tokens before the patches have a position.

        Raises:
            UsageError: the positions are no square grid, with or without those tokens.
        """
        extra = self.config.positions - math.isqrt(self.config.positions) ** 2
        if extra not in (0, 1, 1 + self.config.registers):
            raise UsageError(
                f"{self.config.positions} positions are no square grid of patches",
                hint="`dovetail inspect` shows the positions; only square grids run",
            )
        return extra

    def embed(self, pixels: Float[Tensor, "b channels height width"]) -> Float[Tensor, "b m d"]:
        """The class token, the registers and the patches, with the positions that they have."""
        grid = self.patch_embed(pixels.to(self.patch_embed.weight.dtype))  # b d rows columns
        rows, columns = grid.shape[2:]
        first, square = self.pos_embed.weight[: self.placed], self.pos_embed.weight[self.placed :]
        patches = grid.flatten(2).transpose(1, 2)
        patches = patches + resampled(square, rows, columns, antialias=self.config.antialias)
        before = self.cls_token if self.reg_token is None else torch.cat([self.cls_token, self.reg_token], 1)
        before = torch.cat([before[:, : self.placed] + first, before[:, self.placed :]], dim=1)
        return torch.cat([before.expand(len(pixels), -1, -1), patches], dim=1)

    def forward(
        self, pixels: Float[Tensor, "b channels height width"], output: Output = "normed"
    ) -> Float[Tensor, "b n d"]:
        x = through(self.blocks, self.norm, self.embed(pixels), output)
        return x[:, 1 + self.config.registers :]


def build_tower(values: Values, role: str, **more: Any) -> Dinov2Tower:
    """The tower that fills a role; `more` are values known otherwise.

    Raises:
        UsageError: the role is not there, or a value that it needs is not known.
    """
    more["is_gated"] = values.kind(role) == "dinov2_gated"
    count = values.values[f"{role}.registers"].value if "registers" in values.features[role] else 0
    if count:
        more.setdefault("antialias", True)  # here transformers antialiases as timm does
    return Dinov2Tower(fill(Dinov2Config, values, role, registers=count, **more))


class Dinov2Model(TowerModel):
    """A tower by itself."""

    def __init__(self, values: Values) -> None:
        super().__init__()
        self.inputs = dinov2_inputs(values)
        self.vision = build_tower(values, "vision")

    def forward(
        self, pixels: Float[Tensor, "b channels height width"], output: Output = "normed"
    ) -> Float[Tensor, "b n d"]:
        return self.vision(pixels, output)

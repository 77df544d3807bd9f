"""Prismatic and OpenVLA: patches of one or two timm towers, projected, among the tokens of a decoder.

    b  batch    n  tokens    i  images    p  patches of an image    m  tokens of an image    d  d_model

Where the patches of an image go, say the placeholders of its row (`dovetail.inputs.prismatic`).
Features are those of the tower's second-to-last block, without a norm; `vision_output` names another.
With two towers the patches of both are joined channel by channel, DINOv2 first.

Sources: arXiv:2402.07865, arXiv:2406.09246 (OpenVLA); TRI-ML/prismatic-vlms@4fcd061
`models/vlms/prismatic.py`, `models/backbones/vision/*.py`, `util/nn_utils.py`; Victorwz/Open-Qwen2VL for
the average pool (arXiv:2504.00595).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.errors import UsageError
from dovetail.inputs.prismatic import PrismaticInputs, named_count, named_size
from dovetail.inputs.values import Values, fill
from dovetail.models.language import LanguageModel
from dovetail.models.layers import Linear
from dovetail.models.masks import causal_blocks, positions_of
from dovetail.models.resamplers.grid import to_grid, to_tokens
from dovetail.models.stream import Columns, Stream
from dovetail.models.text import build_decoder, build_head
from dovetail.models.towers import dinov2, siglip
from dovetail.models.towers.vit import Output, edge_of, unread
from dovetail.models.vlm.placeholders import filled

Tower = siglip.SiglipTower | dinov2.Dinov2Tower
TOWERS: dict[str, Callable[..., Tower]] = {"siglip": siglip.build_tower, "dinov2": dinov2.build_tower}


@dataclass(frozen=True, slots=True, kw_only=True)
class PrismaticConfig:
    """What no single part owns."""

    image_token: int
    vision_output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearConfig:
    """The sizes of a linear projector."""

    d_in: int
    d_out: int
    bias: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class MlpConfig:
    """The sizes of an MLP projector."""

    d_in: int
    d_out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AvgpoolConfig:
    """The sizes of an MLP projector behind a pool. `pooling`: 2d, over the square grid of patches, or 1d,
    along the sequence."""

    d_in: int
    d_out: int
    num_image_tokens: int
    pooling: str


class LinearProjector(nn.Module):
    """`linear`."""

    def __init__(self, config: LinearConfig) -> None:
        super().__init__()
        self.fc1 = Linear(config.d_in, config.d_out, bias=config.bias)

    def forward(self, x: Float[Tensor, "i p d_in"]) -> Float[Tensor, "i p d"]:
        return self.fc1(x)


class GeluMlp(nn.Module):
    """`gelu-mlp`."""

    def __init__(self, config: MlpConfig) -> None:
        super().__init__()
        self.fc1 = Linear(config.d_in, config.d_out)
        self.fc2 = Linear(config.d_out, config.d_out)

    def forward(self, x: Float[Tensor, "i p d_in"]) -> Float[Tensor, "i p d"]:
        return self.fc2(F.gelu(self.fc1(x)))


class FusedGeluMlp(nn.Module):
    """`fused-gelu-mlp`, for two towers: four times their width between the first two linears."""

    def __init__(self, config: MlpConfig) -> None:
        super().__init__()
        self.fc1 = Linear(config.d_in, 4 * config.d_in)
        self.fc2 = Linear(4 * config.d_in, config.d_out)
        self.fc3 = Linear(config.d_out, config.d_out)

    def forward(self, x: Float[Tensor, "i p d_in"]) -> Float[Tensor, "i p d"]:
        return self.fc3(F.gelu(self.fc2(F.gelu(self.fc1(x)))))


class AvgpoolMlp(nn.Module):
    """`N-avgpool`: the patches pooled to N tokens, then `gelu-mlp`. At N patches the pool does nothing.

    Raises:
        UsageError: there is no such pooling.
    """

    def __init__(self, config: AvgpoolConfig) -> None:
        super().__init__()
        if config.pooling not in ("1d", "2d"):
            raise UsageError(f"no pooling is called `{config.pooling}`", hint="one of: 1d, 2d")
        self.config = config
        self.fc1 = Linear(config.d_in, config.d_out)
        self.fc2 = Linear(config.d_out, config.d_out)

    def pool(self, x: Float[Tensor, "i p d_in"]) -> Float[Tensor, "i m d_in"]:
        """The patches, fewer."""
        count = self.config.num_image_tokens
        if count == x.shape[1]:
            return x
        if self.config.pooling == "1d":
            return F.adaptive_avg_pool1d(x.transpose(1, 2), count).transpose(1, 2)
        edge = edge_of(x.shape[1])
        return to_tokens(F.adaptive_avg_pool2d(to_grid(x, edge, edge), edge_of(count)))

    def forward(self, x: Float[Tensor, "i p d_in"]) -> Float[Tensor, "i m d"]:
        return self.fc2(F.gelu(self.fc1(self.pool(x))))


def build_projector(values: Values) -> nn.Module:
    """The projector of a checkpoint.

    Raises:
        UsageError: a value that it needs is not known.
    """
    match values.kind("projector"):
        case "linear":
            return LinearProjector(fill(LinearConfig, values, "projector"))
        case "gelu_mlp":
            return GeluMlp(fill(MlpConfig, values, "projector"))
        case "fused_gelu_mlp":
            return FusedGeluMlp(fill(MlpConfig, values, "projector"))
        case kind:
            assert kind == "avgpool_mlp"
            return AvgpoolMlp(fill(AvgpoolConfig, values, "projector", **named_count(values)))


class Prismatic(LanguageModel):
    """The towers, the projector, the decoder and its head."""

    spine = "llm"

    def __init__(self, values: Values) -> None:
        super().__init__()
        self.inputs = PrismaticInputs(values)
        self.config = fill(PrismaticConfig, values)
        if self.config.vision_output not in get_args(Output):
            known = ", ".join(get_args(Output))
            raise UsageError(
                f"no output of a tower is called `{self.config.vision_output}`", hint=f"one of: {known}"
            )
        output = cast("Output", self.config.vision_output)
        self.vision: Tower = TOWERS[values.kind("vision")](values, "vision", **named_size(values, "vision"))
        self.fused = (
            siglip.build_tower(values, "fused", **named_size(values, "fused"))
            if values.has("fused")
            else None
        )
        self.unreached |= unread("vision", self.vision.config.layers, output)
        if self.fused is not None:
            self.unreached |= unread("fused", self.fused.config.layers, output)
        self.projector = build_projector(values)
        self.llm = build_decoder(values, "llm")
        self.head = build_head(values, "head", self.llm)

    def features(
        self,
        pixels: Float[Tensor, "i 3 height width"],
        fused_pixels: Float[Tensor, "i 3 tall wide"] | None = None,
    ) -> Float[Tensor, "i p d_in"]:
        """What the towers see, before the projector.

        Raises:
            UsageError: there are two towers and only one set of pixels.
        """
        output = cast("Output", self.config.vision_output)
        seen = self.vision(pixels, output)
        if self.fused is None:
            return seen
        if fused_pixels is None:
            raise UsageError(
                "this model has two towers, and pixels are given for one",
                hint="give pixels for both: model.prepare(tokens, images) makes them",
            )
        return torch.cat([seen, self.fused(fused_pixels, output)], dim=-1)

    def embed(
        self,
        tokens: Int[Tensor, "b n"],
        valid: Bool[Tensor, "b n"],
        pixels: Float[Tensor, "i 3 height width"] | None = None,
        fused_pixels: Float[Tensor, "i 3 tall wide"] | None = None,
    ) -> Stream:
        """The token embeddings, with the projected patches in their places."""
        seen = None if pixels is None else self.projector(self.features(pixels, fused_pixels)).flatten(0, 1)
        where = (tokens == self.config.image_token) & valid
        x = filled(self.llm.embed, tokens, where, seen)
        return Stream(x, positions_of(valid), Columns(valid, causal_blocks(valid), where.long()))
